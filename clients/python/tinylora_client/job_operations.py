"""What is sent for training jobs beyond what the openai package sends: settings of this server, samples, waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openai import APIError, Omit
from openai.pagination import SyncCursorPage, SyncPage
from openai.types import FileObject, Model
from openai.types.fine_tuning import FineTuningJobEvent

from tinylora_client.answer_check import base_model_of
from tinylora_client.errors import JobFailedError, JobPausedError, JobWaitTimeoutError
from tinylora_client.objects import Job, JobSample
from tinylora_client.operation import Call, Emit, Listing, Pause, Series, Steps
from tinylora_client.patience import PATIENCE_S, patiently
from tinylora_client.progress_bar import ProgressBar

ENDS = ("succeeded", "failed", "cancelled")
EVENTS_PAGE = 100


@dataclass(frozen=True)
class JobUpdate:
    """A job, and its events since the last update, oldest first."""

    job: Job
    events: tuple[FineTuningJobEvent, ...]


def create(
    *,
    training_file: str | Path,
    model: str | None = None,
    validation_file: str | Path | None = None,
    method: Mapping[str, Any] | None = None,
    tinylora: Mapping[str, Any] | None = None,
    suffix: str | None = None,
    seed: int | None = None,
    metadata: Mapping[str, str] | None = None,
    integrations: Iterable[Mapping[str, Any]] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    extra_headers: Mapping[str, str] | None = None,
    extra_query: Mapping[str, object] | None = None,
    extra_body: Mapping[str, object] | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
) -> Steps[Job]:
    """Make a training job. As openai's, and besides:

    training_file, validation_file: the id of an uploaded file, or a Path, which is uploaded. model: None is the
    server's base model; an adapter's name goes on from that adapter. tinylora: settings that OpenAI has no names for.
    """
    if model is None:
        model = yield from base_model()
    files = {"training_file": training_file, "validation_file": validation_file}
    ids = {}
    for field, file in files.items():
        key = None if idempotency_key is None else f"{idempotency_key}-{field}"
        ids[field] = (yield from _upload(file, key)) if isinstance(file, Path) else file
    fields = {
        "model": model,
        **ids,
        "method": method,
        "tinylora": tinylora,
        "suffix": suffix,
        "seed": seed,
        "metadata": metadata,
        "integrations": None if integrations is None else list(integrations),
        "hyperparameters": hyperparameters,
    }
    body = {name: value for name, value in fields.items() if not isinstance(value, Omit | type(None))}
    return (
        yield from Call(
            "post",
            "/fine_tuning/jobs",
            Job,
            body={**body, **(extra_body or {})},
            query=extra_query or {},
            extra_headers=extra_headers or {},
            idempotency_key=idempotency_key,
            timeout_s=timeout,
        )
    )


def base_model() -> Steps[str]:
    """The name of the model that the server serves, on which all adapters run."""
    listed = yield from Call("get", "/models", SyncPage[Model], query={"limit": 1})
    return base_model_of(listed.data)


def samples(
    job_id: str, *, step: int | None = None, order: Literal["asc", "desc"] = "desc", limit: int = 20
) -> Listing[JobSample]:
    """Prompts of the job's steps with their completions and rewards; newest step first unless `order` is "asc"."""
    given = {} if step is None else {"step": step}
    return Listing(f"{_path(job_id)}/samples", JobSample, {**given, "order": order, "limit": limit})


def follow(job_id: str, *, poll_s: float = 2.0, patience_s: float = PATIENCE_S) -> Series[JobUpdate]:
    """The job now, and every `poll_s` seconds with its new events, until it has ended.

    A server that does not answer is asked again for `patience_s` seconds; then its error is raised.
    """
    last: str | None = None
    while True:
        update = yield from _update(job_id, last, poll_s, patience_s, math.inf, lambda error: None)
        yield Emit(update)
        if update.job.status in ENDS:
            return
        last = update.events[-1].id if update.events else last
        yield Pause(poll_s)


def wait(
    job_id: str,
    *,
    timeout: float | None = None,
    poll_s: float = 2.0,
    progress: bool | None = None,
    on_update: Callable[[JobUpdate], object] | None = None,
    on_silence: Callable[[APIError], object] | None = None,
    patience_s: float = PATIENCE_S,
) -> Steps[Job]:
    """The job, when it has succeeded; `fine_tuned_model` is then the adapter's name.

    timeout: seconds, after which no other look is taken. progress: a bar on standard error; None shows it on a terminal
    and in a notebook. on_update: is called at every look at the job, on_silence with the error where the server does
    not answer. Interrupting it leaves the job alone, and waiting again goes on.

    Raises JobFailedError when it failed or was cancelled, JobPausedError when it is paused, which only resuming ends,
    JobWaitTimeoutError, and the error of a server that does not answer for `patience_s` seconds, or at the end of
    `timeout`.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    last: str | None = None
    with ProgressBar(job_id, progress) as bar:

        def silent(error: APIError) -> None:
            bar.show_silence(error)
            if on_silence is not None:
                on_silence(error)

        while True:
            update = yield from _update(job_id, last, poll_s, patience_s, deadline, silent)
            job = update.job
            last = update.events[-1].id if update.events else last
            bar.show(job, update.events)
            if on_update is not None:
                on_update(update)
            if job.status == "succeeded":
                return job
            if job.status in ENDS:
                raise JobFailedError(job)
            status: str = job.status  # more than openai's type knows
            if status == "paused":
                raise JobPausedError(job, update.events[-1].message if update.events else None)
            left = deadline - time.monotonic()
            if left <= 0:
                raise JobWaitTimeoutError(job, timeout or 0.0)
            yield Pause(min(poll_s, left))


def _update(
    job_id: str,
    last: str | None,
    poll_s: float,
    patience_s: float,
    deadline: float,
    silent: Callable[[APIError], object],
) -> Steps[JobUpdate]:
    """The job and the events behind the one with the id `last`. Passing errors are told, and waited out."""

    def ask() -> Steps[JobUpdate]:
        # The job before its events: of one that has ended, all of them are there.
        job = yield from Call("get", _path(job_id), Job)
        return JobUpdate(job, (yield from _events_behind(job_id, last)))

    return patiently(ask, poll_s=poll_s, patience_s=patience_s, deadline=deadline, silent=silent)


def _events_behind(job_id: str, last: str | None) -> Steps[tuple[FineTuningJobEvent, ...]]:
    """Oldest first."""
    found: list[FineTuningJobEvent] = []
    query: dict[str, Any] = {"limit": EVENTS_PAGE}
    while True:
        page = yield from Call("get", f"{_path(job_id)}/events", SyncCursorPage[FineTuningJobEvent], query=query)
        for event in page.data:
            if event.id == last:
                return tuple(reversed(found))
            found.append(event)
        if not page.has_more:
            return tuple(reversed(found))
        query["after"] = page.data[-1].id


def _upload(file: Path, idempotency_key: str | None) -> Steps[str]:
    answer = yield from Call(
        "post",
        "/files",
        FileObject,
        body={"purpose": "fine-tune"},
        files={"file": (file.name, file.read_bytes())},
        extra_headers={"content-type": "multipart/form-data"},
        idempotency_key=idempotency_key,
    )
    return answer.id


def _path(job_id: str) -> str:
    if not job_id or "/" in job_id:
        raise ValueError(f"job_id is {job_id!r}, expected the id of a job, such as ftjob-...")
    return f"/fine_tuning/jobs/{job_id}"
