"""How the work on a job ends in a worker, unless something stops it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.worker_protocol import BestVector, JobError, WorkerEvent


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fields are those of the protocol's FinishRequest."""

    status: Literal["succeeded", "failed", "released"]
    best: BestVector | None = None
    error: JobError | None = None
    events: tuple[WorkerEvent, ...] = ()


def failed(code: str, message: str, param: str | None = None) -> Outcome:
    """The end of a job that cannot go on."""
    return Outcome("failed", error=JobError(code=code[:64], message=message[:2000], param=param))
