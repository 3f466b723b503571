"""`tinylora webhooks ...`: who a running server tells when jobs, batches and background responses have ended.

It knows nothing of the server but its HTTP API. httpx is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, call, pages, part, say, table, when

webhooks = typer.Typer(no_args_is_help=True, help="Have a URL told when jobs, batches and responses have ended.")

Endpoint = Annotated[str, typer.Argument(help="The endpoint's id: we_...")]


@webhooks.command("create")
def create(
    to: Annotated[str, typer.Argument(help="Where events are sent, https://...")],
    events: Annotated[
        list[str] | None, typer.Option("--event", "-e", help="A type of event; several times for more. Default: all")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the URL's host")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Register a URL. The secret that signs its events is printed once: keep it."""
    from urllib.parse import urlsplit

    types = events or call(url, "GET", "/webhook_event_types")["data"]
    body = {"name": name or (urlsplit(to).netloc.rpartition("@")[2] or to)[:128], "url": to, "event_types": types}
    _show_secret(call(url, "POST", "/webhook_endpoints", body), as_json)


@webhooks.command("list")
def list_all(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the endpoints, newest first, with what came of the last events."""
    found = list(pages(url, "/webhook_endpoints"))
    if as_json:
        print(json.dumps(found))
        return
    rows = [(one["id"], one["name"], one["url"], ", ".join(one["event_types"]), _last(one)) for one in found]
    table("id", "name", "url", "events", "last", rows=rows)


@webhooks.command("events")
def list_events(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the types of events that there are."""
    types = call(url, "GET", "/webhook_event_types")["data"]
    print(json.dumps(types) if as_json else "\n".join(types))


@webhooks.command("test")
def test(
    endpoint: Endpoint,
    event: Annotated[str | None, typer.Option("--event", "-e", help="Default: the first that it is told of")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send an event that never was, and print the status of the answer."""
    path = f"/webhook_endpoints/{part(endpoint)}"
    kind = event or call(url, "GET", path)["event_types"][0]
    result = call(url, "POST", f"{path}/test", {"event_type": kind})
    print(json.dumps(result) if as_json else f"{kind}: answered with {result['status_code']}")
    if not 200 <= result["status_code"] < 300:
        raise typer.Exit(1)


@webhooks.command("rotate")
def rotate(
    endpoint: Endpoint,
    keep_old: Annotated[bool, typer.Option(help="Sign with the old secret too, for 24 hours")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint another secret, which is printed once."""
    body = {"keep_old_secret_active_for_24_hours": keep_old}
    _show_secret(call(url, "POST", f"/webhook_endpoints/{part(endpoint)}/rotate_secret", body), as_json)


@webhooks.command("delete")
def delete(endpoint: Endpoint, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Delete an endpoint; events that it was not told yet it will not be."""
    answer = call(url, "DELETE", f"/webhook_endpoints/{part(endpoint)}")
    print(json.dumps(answer) if as_json else f"{endpoint} is deleted")


def _show_secret(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(made))
        return
    say(f"{made['id']} is told of {', '.join(made['event_types'])}. Its secret, which is not shown again:")
    print(made["signing_secret"])


def _last(endpoint: dict[str, Any]) -> str:
    """What came of the last event."""
    told, failed = endpoint["delivered_at"], endpoint["failed_at"]
    if failed is not None and failed > (told or 0):
        return f"{when(failed)}: {endpoint['error']}"
    return "" if told is None else f"{when(told)}: taken"
