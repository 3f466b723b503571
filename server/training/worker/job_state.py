"""What a job has beside its vector and its optimiser, as the `state` of a checkpoint: the best vector so far, what the
watch has counted, and the vector that the next step is sampled with when it is an older one."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from server.training.jobs.protocol import BestVector
from server.training.worker.watch import Watch


@dataclass(slots=True)
class JobState:
    """best_value: what `best` was chosen by; higher is better. sampled_with: base64 as in the protocol."""

    best: BestVector | None = None
    best_value: float | None = None
    watch: Watch = field(default_factory=Watch)
    sampled_with: str | None = None

    @classmethod
    def of_json(cls, state: dict[str, Any]) -> JobState:
        best = state["best"]
        return cls(
            best=None if best is None else BestVector.model_validate(best),
            best_value=state["best_value"],
            watch=Watch.of_state(state["watch"]),
            sampled_with=state["sampled_with"],
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "best": None if self.best is None else self.best.model_dump(),
            "best_value": self.best_value,
            "watch": self.watch.state(),
            "sampled_with": self.sampled_with,
        }

    def consider(self, value: float, vector: str, step: int, metrics: dict[str, float]) -> None:
        """Keep it if nothing was better; of equals the later one."""
        if self.best_value is None or value >= self.best_value:
            self.best, self.best_value = BestVector(vector=vector, step=step, metrics=metrics), value

    @property
    def has_improved(self) -> bool:
        """Some step did better than the start."""
        return self.best is not None and self.best.step > 0 and self.best_value != self.watch.start


def encode_vector(v_GU: Tensor) -> str:
    """float32 little-endian, base64."""
    return base64.b64encode(v_GU.detach().numpy().astype("<f4").tobytes()).decode()


def decode_vector(text: str, shape: tuple[int, int]) -> Tensor:
    """The other way; ValueError when it does not have `shape`."""
    data = bytearray(base64.b64decode(text, validate=True))
    return torch.frombuffer(data, dtype=torch.float32).clone().reshape(shape)
