"""HTTP calls of the command line: where the server is, which key to send, and what to say when it refuses.

The server's errors are sentences already and are shown as they are.

httpx and rich are imported when they are used, so that --help answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://localhost:8000"
PAGE = 100
TIMEOUT_S = 60

KEY_HINT = " (The key is taken from TINYLORA_ADMIN_KEY, else TINYLORA_API_KEY.)"

Url = Annotated[str, typer.Option(envvar="TINYLORA_URL", help="Where the server is")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs")]


def key_of_environment() -> str | None:
    """The key to send; None when there is none."""
    return os.environ.get("TINYLORA_ADMIN_KEY") or os.environ.get("TINYLORA_API_KEY") or None


@contextmanager
def connection(url: str) -> Iterator[httpx.Client]:
    """A connection to the server's /v1. Ends the command with a sentence when the server cannot be reached."""
    import httpx

    key = key_of_environment()
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
    hint = KEY_HINT if response.status_code == 401 else ""
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
    from rich.console import Console

    Console(stderr=True).print(f"tinylora: {message}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def say(message: str) -> None:
    """A line for people, which a program that reads the output does not see."""
    from rich.console import Console

    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


def table(*columns: str, rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """Print rows for people; the columns named in `right` are numbers.

    Nothing is cut or folded to the terminal's width: names and ids can be copied from it.
    """
    from rich.cells import cell_len

    lines = [tuple(columns), *map(tuple, rows)]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(columns))]
    for number, line in enumerate(lines):
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = [
            gap + cell if name in right else cell + gap for name, cell, gap in zip(columns, line, gaps, strict=True)
        ]
        # typer takes the style away where nobody looks.
        typer.secho("  ".join(cells).rstrip(), bold=number == 0)


def when(seconds: int | None, never: str = "") -> str:
    """A time, from seconds since 1970."""
    return never if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
