"""Importing and exporting files of many adapters, with a progress bar.

An import is sent in requests of ten thousand lines, each under an Idempotency-Key made from the file's digest and the
lines' place. So memory is bounded, a broken connection costs one request, and an import that is started again passes
quickly over what is stored already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from clients.cli.calls import checked, connection, fail, say

if TYPE_CHECKING:
    import httpx
    from rich.progress import Progress

LINES = 10_000
SHOWN_REJECTS = 20
TRIES = 5
PASSING = (429, 500, 502, 503, 504)
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"


@dataclass(slots=True)
class Totals:
    """What became of a file's adapters."""

    stored: int = 0
    rejected: int = 0


def import_file(url: str, file: Path) -> Totals:
    """Store the adapters of `file`, and say on standard error which were rejected. Ends the command if it cannot."""
    kind = SAFETENSORS if file.suffix == ".safetensors" else NDJSON
    totals = Totals()
    with connection(url) as client, _progress() as progress:
        lines = _count_lines(file) if kind == NDJSON else None
        key = _digest(file)
        task = progress.add_task(file.name, total=lines)
        bodies = _chunks(file) if kind == NDJSON else iter([file.read_bytes()])
        for number, body in enumerate(bodies):
            headers = {"content-type": kind, "idempotency-key": f"import-{key[:32]}-{number}"}
            first = number * LINES
            for line in _send(client, body, headers).text.splitlines():
                _count(json.loads(line), first, totals)
            progress.update(task, completed=totals.stored + totals.rejected)
    return totals


def _count(outcome: dict[str, object], first: int, totals: Totals) -> None:
    if outcome.get("object") == "adapter.bulk":
        if not outcome["complete"]:
            fail(f"the server stopped reading: {outcome['error']}")
    elif "version" in outcome:
        totals.stored += 1
    else:
        totals.rejected += 1
        if totals.rejected <= SHOWN_REJECTS:
            error = outcome["error"]
            message = error["message"] if isinstance(error, dict) else error
            say(f"item {first + int(str(outcome['index']))} ({outcome['name']}): {message}")
        elif totals.rejected == SHOWN_REJECTS + 1:
            say("... and more, which are counted only")


def _send(client: httpx.Client, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """Try again what may help: the key makes sure that nothing is stored twice."""
    import httpx
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt
    from tenacity.wait import wait_exponential

    def last(state: RetryCallState) -> httpx.Response:
        assert state.outcome is not None
        response: httpx.Response = state.outcome.result()
        return response

    retrying = Retrying(
        retry=retry_if_exception_type(httpx.TransportError) | retry_if_result(lambda sent: sent.status_code in PASSING),
        wait=wait_exponential(),
        stop=stop_after_attempt(TRIES),
        retry_error_callback=last,
    )
    return checked(retrying(client.post, "/adapters/bulk", content=body, headers=headers, timeout=600))


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        written = (line.rstrip(b"\n") + b"\n" for line in lines if line.strip())
        while chunk := b"".join(islice(written, LINES)):
            yield chunk


def _count_lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def export_file(url: str, file: Path, *, all_versions: bool, prefix: str) -> int:
    """Write the tenant's adapters to `file` as NDJSON, whole or not at all; returns how many."""
    query = {"versions": "all" if all_versions else "latest", "prefix": prefix}
    partial = file.with_name(f"{file.name}.partial")
    count = 0
    with connection(url) as client, _progress() as progress, partial.open("wb") as output:
        task = progress.add_task(file.name, total=None)
        with client.stream("GET", "/adapters/export", params=query) as response:
            if not response.is_success:
                response.read()
            checked(response)
            for chunk in response.iter_bytes():
                output.write(chunk)
                count += chunk.count(b"\n")
                progress.update(task, completed=count)
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
