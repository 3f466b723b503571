"""HTTP calls of the command line: where the server is, which key to send, and what to say when it refuses.

The server's errors are sentences already and are shown as they are.

httpx and rich are imported when they are used, so that --help answers at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from clients.cli.environment import (
    AddressError,
    EnvironmentVariableError,
    acting_for,
    check_address,
    key_of_environment,
    making_client,
)

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://localhost:8000"
PAGE = 100
TIMEOUT_S = 60

KEY_HINT = " (The key is taken from TINYLORA_ADMIN_KEY, else TINYLORA_API_KEY.)"

Url = Annotated[str, typer.Option(envvar="TINYLORA_URL", help="Where the server is")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs")]


@contextmanager
def connection(url: str) -> Iterator[httpx.Client]:
    """A connection to the server's /v1. Ends the command with a sentence when the server cannot be reached."""
    import httpx

    try:
        with client_of(url, "/v1", TIMEOUT_S) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, AddressError) as error:
        fail(f"no answer of a TinyLoRA server from {url}: {error or type(error).__name__}")
    except EnvironmentVariableError as error:
        fail(str(error))
    except ValueError as error:
        # A number that is none, or text that is not UTF-8.
        fail(f"this cannot be sent: {error}")


def client_of(url: str, path: str, timeout_s: float) -> httpx.Client:
    """A client of what is below `path` at `url`, with the key and the tenant.

    Raises httpx.InvalidURL, AddressError and EnvironmentVariableError.
    """
    import httpx

    check_address(url)
    key = key_of_environment()
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    if (tenant := acting_for.get()) is not None:
        headers["openai-organization"] = tenant
    base_url = httpx.URL(f"{url.rstrip('/').removesuffix('/v1')}{path}")
    with making_client(httpx.InvalidURL):
        return httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s)


def checked(response: httpx.Response) -> httpx.Response:
    """`response`, read, when it is a success; else ends the command with what the server says."""
    if response.is_success:
        return response
    hint = KEY_HINT if response.status_code == 401 else ""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = other_server(response.url, response.status_code)
    fail(f"{message}{hint}")


def other_server(url: object, status: int) -> str:
    """What is said where `url` is another server's: its answer cannot be read as one of ours."""
    return f"{url} answered {status}, not as a TinyLoRA server would: is --url right?"


class Answer(dict[str, Any]):
    """A JSON object of the server. Reading a field that it does not have ends the command: it is another server's."""

    def __init__(self, fields: Mapping[str, Any], response: httpx.Response) -> None:
        super().__init__(fields)
        self._response = response

    def __missing__(self, field: str) -> NoReturn:
        fail(other_server(self._response.url, self._response.status_code))


def call(url: str, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Answer:
    """The server's answer, a JSON object."""
    with connection(url) as client:
        response = checked(client.request(method, path, json=body, params=query))
    try:
        answer = response.json(object_hook=lambda fields: Answer(fields, response))
    except ValueError:
        answer = None
    if not isinstance(answer, Answer):
        fail(other_server(response.url, response.status_code))
    return answer


def pages(url: str, path: str, **query: Any) -> Iterator[Answer]:
    """The items of a listing, from all of its pages."""
    query["limit"] = PAGE
    while True:
        page = call(url, "GET", path, **query)
        yield from page["data"]
        if not page["has_more"]:
            return
        query["after"] = page["last_id"]


def check_writable(file: Path) -> None:
    """End the command if `file` cannot be written, before much is done for what would be in it."""
    with writing(file):
        is_new = not file.exists()
        file.open("ab").close()
        if is_new:
            file.unlink()


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Within, `file` is written. Ends the command with a sentence when it cannot be."""
    try:
        yield
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror or error}")


def part(text: str) -> str:
    """`text` as one part of a path."""
    # What is not UTF-8 the server says.
    return quote(text, safe="", errors="surrogateescape")


def printable(text: str) -> str:
    """Without control characters, by which what a model says could command the terminal."""
    return "".join(
        letter for letter in text if letter in "\n\t" or (ord(letter) >= 32 and not 127 <= ord(letter) < 160)
    )


def fail(message: str) -> NoReturn:
    """End the command with `message`."""
    say(f"tinylora: {message}", "bold red")
    raise typer.Exit(1)


def say(message: str, style: str | None = None) -> None:
    """A line for people, which a program that reads the output does not see. `style` is rich's."""
    from rich.console import Console

    console = Console(stderr=True, emoji=False)
    console.print(printable(message), style=style, highlight=False, markup=False, soft_wrap=True)


def table(*columns: str, rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """Print rows for people; the columns named in `right` are numbers.

    Nothing is cut or folded to the terminal's width: names and ids can be copied from it.
    """
    from rich.cells import cell_len

    lines = [tuple(columns), *(tuple(map(printable, row)) for row in rows)]
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
    if seconds is None:
        return never
    if seconds >= datetime.max.replace(tzinfo=UTC).timestamp():
        return "after 9999"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
