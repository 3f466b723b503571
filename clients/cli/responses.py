"""`tinylora responses ...`: what /v1/responses has stored.

What is heavy is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, printable, table, when

responses = typer.Typer(no_args_is_help=True, help="List, read, cancel and delete stored responses.")

ENDS = ("response.completed", "response.failed", "response.incomplete", "error")

ResponseId = Annotated[str, typer.Argument(help="The response's id: resp_...")]


@responses.command("list")
def list_responses(
    status: Annotated[str | None, typer.Option(help="Only those that are so: completed, in_progress, ...")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of a model, or of an adapter, all its versions")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List stored responses, newest first."""
    from clients.cli.client import connected

    with connected(url) as client:
        # What is no status the server says.
        wanted: Any = status
        found = list(islice(client.responses.list(status=wanted, model=model, limit=min(limit, 100)), limit))
    if as_json:
        print(json.dumps([one.to_dict() for one in found]))
        return
    rows = [
        (one.id, one.status, one.model or "", str(one.bytes), when(one.created_at), one.previous_response_id or "")
        for one in found
    ]
    table("id", "status", "model", "bytes", "created", "previous", rows=rows, right=("bytes",))


@responses.command("show")
def show(response_id: ResponseId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print the text of a response; with --json all of it."""
    from clients.cli.client import connected

    with connected(url) as client:
        response = client.responses.retrieve(response_id)
    if as_json:
        print(json.dumps(response.to_dict()))
    elif response.error is not None:
        fail(f"{response.id} is {response.status}: {response.error.message}")
    else:
        print(printable(response.output_text) or f"{response.id} is {response.status}, and has no text")


@responses.command("watch")
def watch(
    response_id: ResponseId,
    after: Annotated[int | None, typer.Option(min=0, help="Only what came behind the event of this number")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Print a response as it comes: one that was made with background and stream. With --json its events."""
    from openai import omit

    from clients.cli.client import connected

    with connected(url) as client:
        stream = client.responses.retrieve(response_id, stream=True, starting_after=omit if after is None else after)
        last = _print_events(stream, as_json)
        if last is None and after is not None:
            # Nothing comes behind the last event of a response that has ended.
            response: Any = client.responses.retrieve(response_id)
            ended = response.status not in ("queued", "in_progress")
        else:
            response = getattr(last, "response", None)
            ended = last is not None and last.type in ENDS
    if not ended:
        number = after if last is None else last.sequence_number
        behind = "" if number is None else f" --after {number}"
        fail(f"the events broke off before their end; tinylora responses watch {response_id}{behind} goes on")
    if as_json:
        return
    if response is None:
        fail(last.message)
    if response.status != "completed":
        fail(f"{response_id} is {response.status}: {_why(response)}")


@responses.command("cancel")
def cancel(response_id: ResponseId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a response that runs in the background."""
    from clients.cli.client import connected

    with connected(url) as client:
        response = client.responses.cancel(response_id)
    print(json.dumps(response.to_dict()) if as_json else f"{response.id} is {response.status}")


@responses.command("delete")
def delete(response_id: ResponseId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Delete a response; those that go on from it keep the conversation."""
    from clients.cli.client import connected

    with connected(url) as client:
        client.responses.delete(response_id)
    print(json.dumps({"id": response_id, "deleted": True}) if as_json else f"{response_id} is deleted")


def _print_events(stream: Any, as_json: bool) -> Any:
    """Print what comes; the last event, or None. One that is none of ENDS is the last before the stream broke off."""
    from openai import APIConnectionError

    event, in_line = None, False
    try:
        for event in stream:
            if as_json:
                print(json.dumps(event.to_dict()), flush=True)
            elif event.type == "response.output_text.delta":
                print(printable(event.delta), end="", flush=True)
                in_line = True
            if event.type in ENDS:
                break
    except APIConnectionError:
        if event is None:
            raise
    if in_line:
        print()
    return event


def _why(response: Any) -> str:
    if response.error is not None:
        return str(response.error.message)
    return "it was cut off" if response.incomplete_details is None else str(response.incomplete_details.reason)
