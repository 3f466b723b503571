"""The end of a job, as the worker tells the gateway: why it cannot go on, or what was chosen to be published."""

from __future__ import annotations

import math

from server.training.graders.grade import printable
from server.training.jobs.protocol import (
    MAX_CODE_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PARAM_CHARS,
    BestVector,
    FinishRequest,
    JobError,
    WorkerEvent,
)
from server.training.worker.early_stopping import EarlyStopping
from server.training.worker.history import Level, held_out_reward
from server.training.worker.training_findings import CLEAR_ERRORS


def failed(worker: str, code: str, message: str, param: str | None = None) -> FinishRequest:
    """The request that fails a job, with texts cut to what the protocol carries and made encodable as UTF-8."""
    message = printable(message)[:MAX_MESSAGE_CHARS] or code
    param = None if param is None else printable(param)[:MAX_PARAM_CHARS]
    error = JobError(code=code[:MAX_CODE_CHARS], message=message, param=param)
    return FinishRequest(worker=worker, status="failed", error=error)


def chosen_event(best: BestVector, watch: EarlyStopping) -> WorkerEvent | None:
    """Which step is published, and whether it is clearly better than the start on the held-out rows; None for a step of
    supervised training. `watch` is the job's, with the evaluation before training.
    """
    if best.step == 0:
        text = "All steps did worse on the held-out rows than the start, so the result is the start."
        return WorkerEvent(level="warn", message=text)
    result = held_out_reward(best.metrics)
    if watch.start is None or result is None:
        return None
    start = Level(watch.start, watch.start_error, math.inf)
    text = (
        f"The result is that of step {best.step}: a reward of {_shown(result)} on the held-out rows, {_shown(start)} "
        "before training."
    )
    if not result.is_above(start, CLEAR_ERRORS):
        text += " So small a difference may be chance; more held-out rows, or more eval_samples, would tell."
    return WorkerEvent(message=text)


def _shown(level: Level) -> str:
    return f"{level.mean:.3g} ± {level.error:.2g}"
