"""What the step loop (job.py) asks of a way to train, of which there are two: reinforcement and supervised.

Design decision: a step is in two parts. `collect` needs a vector and no model, so it may run ahead of the update;
`batch` makes of what was collected a loss for the shared model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from adapters.vector.adapter import Adapter
from server.training.worker.forward import Task

CollectedT = TypeVar("CollectedT")


class TrainingFailed(Exception):
    """The job cannot go on. `code` is for programs, the message for its owner."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's loss and what is known before the model has run.

    is_flat: there is nothing to learn from it. event_data: more for the `data` of the step's event.
    grading_wait_s: seconds at the end of collecting in which all was sampled and not all graded; None without graders.
    """

    task: Task[Any]
    trained_tokens: int
    metrics: Mapping[str, float]
    is_flat: bool = False
    event_data: Mapping[str, Any] = field(default_factory=dict)
    grading_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """value: higher is better. error: its standard error, 0 when there is none."""

    metrics: Mapping[str, float]
    value: float
    error: float = 0.0


class Method(Protocol[CollectedT]):
    """One job's way to train."""

    async def collect(self, step: int, adapter: Adapter | None) -> CollectedT:
        """What step `step` (from 1) is trained on; `adapter` samples it, None being the base model."""

    async def batch(self, collected: CollectedT, handle: int, behavior_policy: Adapter | None) -> Batch:
        """Its loss. `behavior_policy`: the adapter that sampled it, when that is not the one in training any more."""

    def named_metrics(self, metrics: Any) -> dict[str, float]:
        """What the pass measured, by name."""

    async def evaluate(self, handle: int, adapter: Adapter | None) -> Evaluation:
        """The adapter, given as what is in training and as what can be sent, on the held-out rows."""
