"""What is sent for batches beyond what the openai package sends: waiting for them, and reading their answers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from openai.types import Batch

from tinylora_client.errors import BatchFailedError, BatchWaitTimeoutError
from tinylora_client.operation import Call, Pause, Steps
from tinylora_client.patience import PATIENCE_S, patiently
from tinylora_client.progress_bar import ProgressBar

ENDS = ("completed", "failed", "expired", "cancelled")


def wait(
    batch_id: str,
    *,
    timeout: float | None = None,
    poll_s: float = 2.0,
    progress: bool | None = None,
    on_update: Callable[[Batch], object] | None = None,
    patience_s: float = PATIENCE_S,
) -> Steps[Batch]:
    """The batch, when it has completed; `results` then has what its lines were answered.

    timeout: seconds, after which no other look is taken. progress: a bar on standard error; None shows it on a terminal
    and in a notebook. on_update: is called at every look at the batch. Interrupting it leaves the batch alone, and
    waiting again goes on. A server that does not answer is asked again for `patience_s` seconds, and not beyond
    `timeout`; then its error is raised.

    Raises BatchFailedError when it failed, expired or was cancelled; what had been answered is in its files even so.
    BatchWaitTimeoutError.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with ProgressBar(batch_id, progress) as bar:
        while True:
            batch = yield from patiently(
                lambda: _batch(batch_id),
                poll_s=poll_s,
                patience_s=patience_s,
                deadline=deadline,
                silent=bar.show_silence,
            )
            counts = batch.request_counts
            if counts is not None:
                failed = f", {counts.failed} with errors" if counts.failed else ""
                bar.show_count(counts.completed + counts.failed, counts.total, f"{batch.status}{failed}")
            if on_update is not None:
                on_update(batch)
            if batch.status == "completed":
                return batch
            if batch.status in ENDS:
                raise BatchFailedError(batch)
            left = deadline - time.monotonic()
            if left <= 0:
                raise BatchWaitTimeoutError(batch, timeout or 0.0)
            yield Pause(min(poll_s, left))


def results(batch_id: str) -> Steps[list[dict[str, Any]]]:
    """What the lines of a batch that has ended were answered: its output file, then its error file, as JSON objects."""
    batch = yield from _batch(batch_id)
    found: list[dict[str, Any]] = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        if file_id is not None:
            content: Any = yield from Call("get", f"/files/{file_id}/content", bytes)
            found += _rows(content)
    return found


def _batch(batch_id: str) -> Steps[Batch]:
    return (yield from Call("get", f"/batches/{quote(batch_id, safe='')}", Batch))


def _rows(content: Any) -> Iterator[dict[str, Any]]:
    text = content if isinstance(content, bytes) else content.content
    return (json.loads(line) for line in text.splitlines() if line.strip())
