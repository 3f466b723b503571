"""The end of a job that cannot go on, as the worker tells the gateway."""

from __future__ import annotations

from server.training.graders.grade import printable
from server.training.jobs.protocol import (
    MAX_CODE_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PARAM_CHARS,
    FinishRequest,
    JobError,
)


def failed(worker: str, code: str, message: str, param: str | None = None) -> FinishRequest:
    """The request that fails a job, with texts cut to what the protocol carries and made encodable as UTF-8."""
    message = printable(message)[:MAX_MESSAGE_CHARS] or code
    param = None if param is None else printable(param)[:MAX_PARAM_CHARS]
    error = JobError(code=code[:MAX_CODE_CHARS], message=message, param=param)
    return FinishRequest(worker=worker, status="failed", error=error)
