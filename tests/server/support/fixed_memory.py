"""A device of which so many bytes are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from server.training.worker.live_bytes import LiveBytes


@dataclass
class FixedMemory:
    """others: bytes that other processes have. `peaks` is what passes took. See DeviceMemory for the rest."""

    left: int
    can_try: bool = False
    name: str = "the device"
    peaks: list[int] = field(default_factory=list)
    others: int = 0

    def available(self) -> int:
        return self.left

    def at_best(self) -> int:
        return self.left + self.others

    def peak_of(self, run: Callable[[], Any]) -> tuple[Any, int]:
        with LiveBytes() as live:
            result = run()
        self.peaks.append(live.peak)
        return result, live.peak
