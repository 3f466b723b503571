"""Importing and exporting files of many adapters, with a progress bar.

An import is sent in requests of ten thousand lines, each under an Idempotency-Key made from the run's and the lines'
place. So memory is bounded, a broken connection costs one request, and an import that is started again under the key
of the run that broke off passes quickly over what is stored already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from clients.cli.calls import checked, connection, fail, say, writing
from clients.cli.client import connected

if TYPE_CHECKING:
    from rich.progress import Progress

    from tinylora_client import BulkResult
    from tinylora_client.objects import Rejected

LINES = 10_000
SHOWN_REJECTS = 20
RETRIES = 4
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"


def import_file(url: str, file: Path, key: str) -> BulkResult:
    """Store the adapters of `file`, and say on standard error which were rejected. Ends the command if it cannot.

    key: of the run. What was stored under it within 24 hours is told and not stored again.
    """
    from tinylora_client import BulkResult

    kind = SAFETENSORS if file.suffix == ".safetensors" else NDJSON
    total = BulkResult(stored=0, rejected=[])
    with connected(url, max_retries=RETRIES) as client, _progress() as progress:
        # A pipe can be read once, so its lines are not counted before.
        total_lines = _count_lines(file) if kind == NDJSON and file.is_file() else None
        task = progress.add_task(file.name, total=total_lines)
        bodies = _chunks(file) if kind == NDJSON else iter([file.read_bytes()])
        for number, body in enumerate(bodies):
            done = client.adapters.upload_lines(
                body, media_type=kind, first_index=number * LINES, idempotency_key=f"{key}-{number}"
            )
            _say_rejected(done.rejected, len(total.rejected))
            if done.error is not None:
                fail(f"the server stopped reading: {done.error}")
            total = BulkResult(stored=total.stored + done.stored, rejected=[*total.rejected, *done.rejected])
            progress.update(task, completed=total.stored + len(total.rejected))
    return total


def _say_rejected(rejected: Sequence[Rejected], before: int) -> None:
    for one in rejected[: max(0, SHOWN_REJECTS - before)]:
        say(f"item {one.index} ({one.name}): {one.message}")
    if before <= SHOWN_REJECTS < before + len(rejected):
        say("... and more, which are counted only")


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        written = (line.rstrip(b"\n") + b"\n" for line in lines if line.strip())
        while chunk := b"".join(islice(written, LINES)):
            yield chunk


def _count_lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def export_file(url: str, file: Path, *, all_versions: bool, prefix: str) -> int:
    """Write the tenant's adapters to `file` as NDJSON, whole or not at all; returns how many."""
    query = {"versions": "all" if all_versions else "latest", "prefix": prefix}
    partial = file.with_name(f"{file.name}.partial")
    count = 0
    with writing(file), connection(url) as client, _progress() as progress, partial.open("wb") as output:
        task = progress.add_task(file.name, total=None)
        with client.stream("GET", "/adapters/export", params=query) as response:
            if not response.is_success:
                response.read()
            checked(response)
            for chunk in response.iter_bytes():
                output.write(chunk)
                count += chunk.count(b"\n")
                progress.update(task, completed=count)
    with writing(file):
        partial.replace(file)
    return count


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
