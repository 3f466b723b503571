"""`tinylora batch ...`: requests of a file, answered when nobody else asks.

What is heavy is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, say, table, when

if TYPE_CHECKING:
    from openai.types import Batch

    from tinylora_client import TinyLoRA

batches = typer.Typer(no_args_is_help=True, help="Have the requests of a file answered, and fetch the answers.")

BatchId = Annotated[str, typer.Argument(help="The batch's id: batch_...")]
ENDPOINT = "/v1/chat/completions"
INTERRUPTED = 130


@batches.command("create")
def create(
    file: Annotated[
        Path, typer.Argument(help="Requests, one a line: custom_id, method, url, body", exists=True, dir_okay=False)
    ],
    endpoint: Annotated[str | None, typer.Option(help="Default: that of the first line")] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Wait for it, and print the answers")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Upload a file and make a batch of it; prints its id."""
    from clients.cli.client import connected

    with connected(url) as client:
        # Read once, for it may be a pipe.
        content = file.read_bytes()
        stored = client.files.create(file=(file.name, content), purpose="batch")
        wanted: Any = endpoint or _endpoint_of(content)
        batch = client.batches.create(input_file_id=stored.id, endpoint=wanted, completion_window="24h")
        if watching:
            _print_files(client, _watch(client, batch.id))
            return
    print(json.dumps(batch.to_dict()) if as_json else batch.id)


@batches.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    from clients.cli.client import connected

    with connected(url) as client:
        found = list(islice(client.batches.list(limit=min(limit, 100)), limit))
    if as_json:
        print(json.dumps([batch.to_dict() for batch in found]))
        return
    rows = [(batch.id, batch.status, _counts(batch), batch.endpoint, when(batch.created_at)) for batch in found]
    table("id", "status", "lines", "endpoint", "created", rows=rows, right=("lines",))


@batches.command("watch")
def watch(batch_id: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Watch a batch until it has ended."""
    from clients.cli.client import connected

    with connected(url) as client:
        batch = _watch(client, batch_id)
    print(json.dumps(batch.to_dict()) if as_json else f"{batch.id} is {batch.status}, {_counts(batch)} lines")


@batches.command("cancel")
def cancel(batch_id: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a batch; what it has answered is kept."""
    from clients.cli.client import connected

    with connected(url) as client:
        batch = client.batches.cancel(batch_id)
    print(json.dumps(batch.to_dict()) if as_json else f"{batch.id} is {batch.status}")


@batches.command("output")
def output(batch_id: BatchId, url: Url = DEFAULT_URL) -> None:
    """Print what a batch's lines were answered, as JSON, one a line: first its output, then its errors."""
    from clients.cli.client import connected

    with connected(url) as client:
        batch = client.batches.retrieve(batch_id)
        if batch.output_file_id is None and batch.error_file_id is None:
            fail(f"{batch.id} is {batch.status}, and has no files (yet).")
        _print_files(client, batch)


def _watch(client: TinyLoRA, batch_id: str) -> Batch:
    """The batch, when it has completed. Ends the command with the reason when it did not, and at Ctrl-C."""
    from tinylora_client import BatchFailedError

    try:
        batch: Batch = client.batches.wait(batch_id)
    except BatchFailedError as error:
        fail(str(error))
    except KeyboardInterrupt:
        say(f"{batch_id} goes on; tinylora batch watch {batch_id} looks at it again.")
        raise typer.Exit(INTERRUPTED) from None
    return batch


def _print_files(client: TinyLoRA, batch: Batch) -> None:
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        with client.files.with_streaming_response.content(file_id) as response:
            for chunk in response.iter_bytes():
                sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


def _endpoint_of(content: bytes) -> str:
    """The url of the first line; where there is none, the server says what is wrong with the file."""
    first = next((line for line in BytesIO(content) if line.strip()), b"")
    try:
        line = json.loads(first)
    except ValueError:
        return ENDPOINT
    return str(line.get("url", ENDPOINT)) if isinstance(line, dict) else ENDPOINT


def _counts(batch: Batch) -> str:
    counts = batch.request_counts
    return "" if counts is None else f"{counts.completed + counts.failed}/{counts.total}"
