"""What the step loop (job.py) needs of a way to train, of which there are two: reinforcement and supervised.

A step is in two parts: `collect` needs a vector and no model, so it may run ahead of the update; `batch` turns what was
collected into a loss for the shared model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from adapters.vector.adapter import Adapter
from server.training.worker.forward import Task

CollectedT = TypeVar("CollectedT")


class TrainingFailed(Exception):
    """Ends the job as failed. `code` is for programs, `message` for the owner of the job."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Batch:
    """The loss of one step, and what is known before the model has run.

    trained_tokens: of sequences with a gradient. metrics: by name, for the report. is_flat: all advantages are zero.
    event_data: more for the `data` of the step's event.
    grading_wait_s: seconds from the last completion to the last grade; None without graders.
    """

    task: Task[Any]
    trained_tokens: int
    metrics: Mapping[str, float]
    is_flat: bool = False
    event_data: Mapping[str, Any] = field(default_factory=dict)
    grading_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """metrics: by name, for the report. value: higher is better. error: its standard error, 0 when there is none."""

    metrics: Mapping[str, float]
    value: float
    error: float = 0.0


class Method(Protocol[CollectedT]):
    """How one job is trained."""

    async def collect(self, step: int, adapter: Adapter | None) -> CollectedT:
        """The data of step `step` (from 1), sampled by `adapter` (None: the base model) if it is sampled at all."""

    async def batch(self, collected: CollectedT, handle: int, behavior_policy: Adapter | None) -> Batch:
        """The loss on that data. `behavior_policy`: the adapter that sampled it, None when it is the one in training.

        `handle` is that of the adapter in training (TrainableAdapters).
        """

    def named_metrics(self, metrics: Any) -> dict[str, float]:
        """The metrics that a pass returned, by the names of the report."""

    async def evaluate(self, handle: int, adapter: Adapter | None) -> Evaluation:
        """The adapter on the held-out rows. `handle` and `adapter` (None: the base model) are the same one."""
