"""One line of a batch as a request to this gateway: through the app and not the network, and so through the same
checks, quotas, queue and metering as a client's.

Design decision: the app is called as an ASGI app. A connection to the server's own address would need a key of the
tenant, which nobody has but the tenant, and a port that a line's request may take from a client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from starlette.types import ASGIApp, Message, Scope

from server.core.principal import Principal
from server.core.request_state import for_background

MIN_RETRY_S, USUAL_RETRY_S, MAX_RETRY_S = 0.05, 1.0, 60.0
MAX_AHEAD_S = 120.0
SPENT = b'"insufficient_quota"'
# A request that waits: a quota is used up, or a part of the server does not answer.
PASSING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one request. `retry_s`: after how long it may be sent again; None: that would not help."""

    status: int
    body: bytes
    request_id: str
    retry_s: float | None = None


@dataclass(slots=True)
class _Answer:
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


async def ask(app: ASGIApp, path: str, body: bytes, principal: Principal, request_id: str) -> Answered:
    """What `app` answers to a POST of the JSON `body`, as a request of `principal`. Cancelled, its client is gone."""
    answer = _Answer()
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if pending:
            return pending.pop()
        await asyncio.Event().wait()  # whoever asks stays until the end, or cancels
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = int(message["status"])
            answer.headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in message["headers"]}
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    try:
        await app(for_background(_scope(path, len(body), request_id), principal), receive, send)
    except Exception:
        # The app has answered it with 500, if it could, and logged it.
        structlog.get_logger().warning("a line of a batch met a defect", request_id=request_id, exc_info=True)
    status = answer.status or HTTPStatus.INTERNAL_SERVER_ERROR.value
    retry_s = _retry_s(answer) if status in PASSING else None
    return Answered(status, bytes(answer.body), request_id, retry_s)


def _scope(path: str, length: int, request_id: str) -> Scope:
    headers = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(length),
        "x-request-id": request_id,
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
    }


def _retry_s(answer: _Answer) -> float | None:
    headers = answer.headers
    if headers.get("x-should-retry") == "false":
        # A client need not wait for the next month, or for the operator; a line can.
        return MAX_RETRY_S if SPENT in answer.body else None
    milliseconds, seconds = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    wait = USUAL_RETRY_S
    if milliseconds.isdigit():
        wait = int(milliseconds) / 1000
    elif seconds.isdigit():
        wait = float(seconds)
    return min(max(wait, MIN_RETRY_S), MAX_RETRY_S)


class Backoff:
    """When refused requests of one batch may be sent again: one after the other, each `retry_s` behind the one before.

    So a quota that gives a request a second is asked for one a second, however many wait.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = 0.0

    async def wait(self, retry_s: float) -> None:
        """Wait for the turn of a request that was refused."""
        now = self._clock()
        self._next = min(max(now, self._next) + retry_s, now + MAX_AHEAD_S)
        await asyncio.sleep(self._next - now)
