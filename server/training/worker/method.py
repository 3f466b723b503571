"""What a job (job.py) needs of a way to train: it moves one vector, step by step, and says what every step did.

Reinforcement and supervised training follow a gradient and share their steps (gradient.py); evolution needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from adapters.vector.adapter import Adapter
from server.training.jobs.protocol import WorkerEvent
from server.training.jobs.sampled_group import SampledGroup
from server.training.worker.step_timer import StepTimer

MOST_OUTAGE = 0.1


class TrainingFailed(Exception):
    """Ends the job as failed. `code` is for programs, `message` for the owner of the job."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class GraderOutage(TrainingFailed):
    """No completion of a step has a reward, because what grades them, or their environment, did not answer."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did.

    trained_tokens: those that it learned from. metrics: by name, for the report. is_flat: no two rewards that could be
    compared differed, so there was nothing to learn; None where none could be compared. event_data: more for the `data`
    of the step's event. samples: some of what was sampled, what tells most first.
    """

    trained_tokens: int
    metrics: Mapping[str, float]
    is_flat: bool | None = False
    event_data: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[SampledGroup] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """metrics: by name, for the report. value: higher is better. error: its standard error, 0 when there is none.
    by_row: the mean reward of each held-out row, None of a row that has none; empty where there are only losses.
    is_graded: whether any completion was graded. Where none was, the value is 0, which says nothing beside rewards
    below 0. outage_share: of the rows, those without a reward because their grader did not answer.
    event_data: more for the `data` of the event, where it is the evaluation before training. samples: some of what was
    sampled."""

    metrics: Mapping[str, float]
    value: float
    error: float = 0.0
    by_row: Sequence[float | None] = ()
    is_graded: bool = True
    outage_share: float = 0.0
    event_data: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[SampledGroup] = ()

    @property
    def is_reliable(self) -> bool:
        """Whether it can be compared with others: an outage leaves rewards of other rows, and of fewer."""
        return self.outage_share <= MOST_OUTAGE


class Method(Protocol):
    """How one job is trained. Everything random in step n depends on the job's seed and n alone."""

    @property
    def vector(self) -> Tensor:
        """What is trained, behind the last step: float32 (groups, u)."""

    async def prepare(self) -> list[WorkerEvent]:
        """Before the first step of a job: measure what its settings leave to measuring, and say so to its owner."""

    async def step(self, step: int, timer: StepTimer) -> StepResult:
        """Take step `step` (from 1), and count its phases. TrainingFailed when there is no way on."""

    async def evaluate(self, adapter: Adapter | None) -> Evaluation:
        """The vector on the held-out rows. `adapter` is the same one; None: the base model, which it has not left."""

    def optimizer_state(self) -> bytes:
        """With the vector, all that the next step needs. Equal states give equal bytes."""
