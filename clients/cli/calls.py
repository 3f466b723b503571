"""HTTP calls of the command line: where the server is, which key to send, and what to say when it refuses.

The server's errors are sentences already and are shown as they are.

httpx is imported when a call is made, so that --help answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer
from rich.console import Console

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://localhost:8000"
PAGE = 100
TIMEOUT_S = 60

Url = Annotated[str, typer.Option(envvar="TINYLORA_URL", help="Where the server is")]


@contextmanager
def connection(url: str) -> Iterator[httpx.Client]:
    """A connection to the server's /v1. Ends the command with a sentence when the server cannot be reached."""
    import httpx

    key = os.environ.get("TINYLORA_ADMIN_KEY") or os.environ.get("TINYLORA_API_KEY")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        base_url = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        with httpx.Client(base_url=base_url, headers=headers, timeout=TIMEOUT_S) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        fail(f"no answer of a TinyLoRA server from {url}: {error or type(error).__name__}")


def checked(response: httpx.Response) -> httpx.Response:
    """`response`, read, when it is a success; else ends the command with what the server says."""
    if response.is_success:
        return response
    hint = " (The key is taken from TINYLORA_ADMIN_KEY, else TINYLORA_API_KEY.)" if response.status_code == 401 else ""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = f"{response.url} answered {response.status_code}, not as a TinyLoRA server would"
    fail(f"{message}{hint}")


def call(url: str, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> dict[str, Any]:
    """The server's answer, a JSON object."""
    with connection(url) as client:
        response = checked(client.request(method, path, json=body, params=query))
    try:
        answer: dict[str, Any] = response.json()
    except ValueError:
        fail(f"no answer of a TinyLoRA server from {url}: {response.url} is no JSON")
    return answer


def pages(url: str, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """The items of a listing, from all of its pages."""
    query["limit"] = PAGE
    while True:
        page = call(url, "GET", path, **query)
        yield from page["data"]
        if not page["has_more"]:
            return
        query["after"] = page["last_id"]


def part(text: str) -> str:
    """`text` as one part of a path."""
    return quote(text, safe="")


def fail(message: str) -> NoReturn:
    """End the command with `message`."""
    Console(stderr=True).print(f"tinylora: {message}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def say(message: str) -> None:
    """A line for people, which a program that reads the output does not see."""
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)
