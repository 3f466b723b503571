"""The memory of the device that a worker trains on: how much of it is left, and how much a pass took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import psutil
import torch

from server.core.host_memory import available_memory, gib, total_memory
from server.training.worker.live_bytes import LiveBytes
from server.training.worker.memory import PROCESS_BYTES

T = TypeVar("T")
# What to do against too little memory, where the device's name is said before.
ADVICE = "end what else uses it, or raise the limit of this worker (tinylora worker --memory-gib), if it has one"


class DeviceMemory(Protocol):
    """name: of the device, for people. can_try: whether to take too much is an error that is caught, not the end."""

    @property
    def name(self) -> str: ...
    @property
    def can_try(self) -> bool: ...
    def available(self) -> int:
        """Bytes that this process can still take, beside what it has and what other processes have."""
        ...

    def at_best(self) -> int:
        """Bytes that it could take if no other process had any."""
        ...

    def peak_of(self, run: Callable[[], T]) -> tuple[T, int]:
        """What `run` returns, and the most bytes that it had at a time, besides those there were before."""
        ...


def device_memory(device: str, limit: int | None) -> DeviceMemory:
    """That of "cpu" or "cuda". limit: most bytes that this process takes of it in all, or of each
    GPU; None: what others leave."""
    return CudaMemory(limit) if device == "cuda" else HostMemory(limit)


@dataclass(slots=True)
class CudaMemory:
    """That of the GPUs that the model is on. With a limit for each, PyTorch itself refuses to go beyond it, as it does
    on a full card.

    Of several GPUs the one with least left decides, because a pass takes about as much of each: it counts for all.
    """

    limit: int | None
    gpus: Sequence[int] = (0,)
    can_try: bool = True

    @property
    def name(self) -> str:
        name = "the GPU" if len(self.gpus) == 1 else f"{len(self.gpus)} GPUs"
        return name + _within(self.limit)

    def available(self) -> int:
        return len(self.gpus) * min(map(self.left_on, self.gpus))

    def at_best(self) -> int:
        def on(gpu: int) -> int:
            total = torch.cuda.mem_get_info(gpu)[1]
            most = total if self.limit is None else min(total, self.limit)
            return most - PROCESS_BYTES - torch.cuda.memory_allocated(gpu)

        return len(self.gpus) * min(map(on, self.gpus))

    def left_on(self, gpu: int) -> int:
        """Bytes that this process can still take of one GPU."""
        free, total = torch.cuda.mem_get_info(gpu)
        allocated = torch.cuda.memory_allocated(gpu)
        # Freed by tensors and kept by PyTorch for the next ones.
        available: int = free + torch.cuda.memory_reserved(gpu) - allocated
        if self.limit is None:
            return available
        # CUDA's own part is not PyTorch's.
        for_tensors = max(0, self.limit - PROCESS_BYTES)
        torch.cuda.set_per_process_memory_fraction(min(1.0, for_tensors / total), gpu)
        return min(available, for_tensors - allocated)

    def peak_of(self, run: Callable[[], T]) -> tuple[T, int]:
        for gpu in self.gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        before = [torch.cuda.memory_allocated(gpu) for gpu in self.gpus]
        result = run()
        peaks = [torch.cuda.max_memory_allocated(gpu) for gpu in self.gpus]
        return result, len(self.gpus) * max(peak - had for peak, had in zip(peaks, before, strict=True))


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The machine's, or the container's. Linux gives more than there is and later ends a process that uses it."""

    limit: int | None
    can_try: bool = False

    @property
    def name(self) -> str:
        return "this machine" + _within(self.limit, int(psutil.Process().memory_info().rss))

    def available(self) -> int:
        available = available_memory()
        if self.limit is None:
            return available
        return min(available, self.limit - int(psutil.Process().memory_info().rss))

    def at_best(self) -> int:
        total = total_memory()
        most = total if self.limit is None else min(total, self.limit)
        return most - int(psutil.Process().memory_info().rss)

    def peak_of(self, run: Callable[[], T]) -> tuple[T, int]:
        with LiveBytes() as live:
            result = run()
        return result, live.peak


def _within(limit: int | None, taken: int | None = None) -> str:
    """What is said of a limit behind the device's name. taken: what the process has of it already, in bytes."""
    if limit is None:
        return ""
    of_it = "" if taken is None else f", of which its process has {gib(taken, 2)} already"
    return f" within the worker's limit of {gib(limit, 2)}{of_it}"
