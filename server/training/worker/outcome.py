"""How the work on a job ends in a worker, unless something stops it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.training.graders.grade import printable
from server.training.jobs.protocol import (
    MAX_CODE_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PARAM_CHARS,
    BestVector,
    JobError,
    WorkerEvent,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fields are those of the protocol's FinishRequest."""

    status: Literal["succeeded", "failed", "released"]
    best: BestVector | None = None
    error: JobError | None = None
    events: tuple[WorkerEvent, ...] = ()


def failed(code: str, message: str, param: str | None = None) -> Outcome:
    """The end of a job that cannot go on; whatever the words are, they become what the protocol carries."""
    message = printable(message)[:MAX_MESSAGE_CHARS] or code
    param = None if param is None else printable(param)[:MAX_PARAM_CHARS]
    return Outcome("failed", error=JobError(code=code[:MAX_CODE_CHARS], message=message, param=param))
