"""The end of a job, as the worker tells the gateway: why it cannot go on, or what was chosen to be published."""

from __future__ import annotations

import math

from server.training.graders.grade import printable
from server.training.jobs.config import Method
from server.training.jobs.protocol import (
    MAX_CODE_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PARAM_CHARS,
    BestVector,
    FinishRequest,
    JobError,
    WorkerEvent,
)
from server.training.worker.advice import ADVICE
from server.training.worker.early_stopping import EarlyStopping
from server.training.worker.held_out_gain import gain_of, in_words
from server.training.worker.history import Level, held_out_reward
from server.training.worker.method import Evaluation
from server.training.worker.training_findings import CLEAR_ERRORS


def failed(worker: str, code: str, message: str, param: str | None = None) -> FinishRequest:
    """The request that fails a job, with texts cut to what the protocol carries and made encodable as UTF-8."""
    message = printable(message)[:MAX_MESSAGE_CHARS] or code
    param = None if param is None else printable(param)[:MAX_PARAM_CHARS]
    error = JobError(code=code[:MAX_CODE_CHARS], message=message, param=param)
    return FinishRequest(worker=worker, status="failed", error=error)


def dropped(worker: str, why: str) -> FinishRequest:
    """The request that tells of a worker's own failure."""
    text = f"The worker drops the job: {why.rstrip('.')}. It is tried again within minutes."
    event = WorkerEvent(level="error", message=printable(text)[:MAX_MESSAGE_CHARS])
    return FinishRequest(worker=worker, status="dropped", events=[event])


def given_back(worker: str, why: str, other: str) -> FinishRequest:
    """The request that gives a job to another worker, one that `other`."""
    text = f"The worker gives the job back: {why.rstrip('.')}. The job waits for a worker that {other}."
    event = WorkerEvent(level="warn", message=printable(text)[:MAX_MESSAGE_CHARS])
    return FinishRequest(worker=worker, status="released", events=[event])


def stalled(worker: str, step: int, message: str) -> FinishRequest:
    """The request that pauses a job behind `step`, for what grades it does not answer."""
    text = f"Paused behind step {step}: {message.rstrip('.')}. Resume the job when it answers again."
    event = WorkerEvent(level="warn", message=printable(text)[:MAX_MESSAGE_CHARS])
    return FinishRequest(worker=worker, status="stalled", events=[event])


def unreliable_event(step: int, evaluation: Evaluation) -> WorkerEvent:
    """That too many rows of an evaluation have no reward for it to be compared with others."""
    error = evaluation.event_data.get("first_error")
    text = (
        f"Step {step}: {evaluation.outage_share:.0%} of the held-out rows have no reward, because what grades them did "
        f"not answer{f' ({error:.300})' if error else ''}. The mean of the others, {evaluation.value:.4g}, is not "
        "compared with that of other steps, so this step cannot become the result by it."
    )
    message = printable(text)[:MAX_MESSAGE_CHARS]
    return WorkerEvent(level="warn", message=message, data={"warning": "evaluation_outage", "step": step})


def ungraded_event(step: int, evaluation: Evaluation) -> WorkerEvent:
    """That not one completion of an evaluation was graded, so that it is compared with no other."""
    error = evaluation.event_data.get("first_error")
    if error is None:  # the only end without a grade that is nobody's failure
        found = "every conversation of the held-out rows came to a limit before its environment gave a reward"
        advice = "If they have become longer, use smaller steps; else raise max_turns or max_completion_tokens."
    else:
        found = f"not one completion of the held-out rows could be graded ({error:.300})"
        advice = (
            "If the model no longer answers in the format that the grader reads, use smaller steps, or set "
            "response_format; if its answers are right, correct the grader."
        )
    text = f"Step {step}: {found}, so this step is compared with no other. {advice}"
    message = printable(text)[:MAX_MESSAGE_CHARS]
    return WorkerEvent(level="warn", message=message, data={"warning": "evaluation_ungraded", "step": step})


def chosen_event(best: BestVector, watch: EarlyStopping, method: Method) -> WorkerEvent | None:
    """Which step is published, and whether it is clearly better than the start on the held-out rows; None for a step of
    supervised training. `watch` is the job's, with the evaluation before training.
    """
    if best.step == 0:
        text = "All steps did worse on the held-out rows than the start, so the result is the start."
        return WorkerEvent(level="warn", message=text)
    result = held_out_reward(best.metrics)
    if watch.start is None or result is None:
        return None
    text = (
        f"The result is that of step {best.step}: a reward of {result.mean:.3g} on the held-out rows, "
        f"{watch.start:.3g} before training"
    )
    gain = gain_of(best.metrics, len(watch.start_by_row))
    if gain is None:
        return WorkerEvent(message=f"{text}.")
    text += f", a difference of {in_words(best.metrics)}."
    if not gain.is_above(Level(0.0, 0.0, math.inf), CLEAR_ERRORS):
        text += (
            " It may be chance; more held-out rows, or more eval_samples, would tell. What may gain more: "
            f"{ADVICE[method].more_gain}."
        )
    return WorkerEvent(message=text)
