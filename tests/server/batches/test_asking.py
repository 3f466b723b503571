"""When a line of a batch is asked again: what its answer says of that, and what fails in the server."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.batches.answers import Result
from server.batches.asking import MAX_RETRY_S, MIN_RETRY_S, USUAL_RETRY_S, ask
from server.batches.lines import RequestLine
from server.batches.window import SERVER_ERRORS_TRIED, Window
from server.core.principal import OPEN_PRINCIPAL
from tests.server.support.batch_kit import CHAT

NO_RETRY = {"x-should-retry": "false"}


async def answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    messages: list[Message] = [
        {"type": "http.response.start", "status": status, "headers": encoded},
        {"type": "http.response.body", "body": body},
    ]
    for message in messages:
        await send(message)


@pytest.mark.parametrize(
    ("status", "headers", "body", "retry_s"),
    [
        (429, {"retry-after": "7"}, b"{}", 7.0),
        (503, {"retry-after": "7", "retry-after-ms": "250"}, b"{}", 0.25),
        (429, {"retry-after-ms": "1"}, b"{}", MIN_RETRY_S),
        (429, {"retry-after": "9000"}, b"{}", MAX_RETRY_S),
        (503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"{}", USUAL_RETRY_S),
        (503, {}, b"{}", USUAL_RETRY_S),
        (429, NO_RETRY, b'{"error": {"code": "rate_limit_exceeded"}}', None),
        # The next month begins, or the operator allows more.
        (429, NO_RETRY, b'{"error": {"code": "insufficient_quota"}}', MAX_RETRY_S),
        (500, {"retry-after": "7"}, b"{}", None),
        (200, {"retry-after": "7"}, b"{}", None),
    ],
)
async def test_a_line_is_asked_again_where_waiting_helps_and_as_late_as_its_answer_says(
    status: int, headers: dict[str, str], body: bytes, retry_s: float | None
) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, status, headers, body)

    answered = await ask(app, CHAT, b"{}", OPEN_PRINCIPAL, "req_1")
    assert (answered.status, answered.body, answered.retry_s) == (status, body, retry_s)


async def test_a_line_that_fails_in_the_server_is_asked_a_few_times() -> None:
    asked: Counter[str] = Counter()
    results: list[Result] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        name: str = json.loads((await receive())["body"])["user"]
        asked[name] += 1
        if name == "raises":
            raise RuntimeError("a defect")
        status = 200 if name == "recovers" and asked[name] > 1 else 400 if name == "wrong" else 500
        await answer(send, status, {}, b"{}")

    window = Window(app, CHAT, 4, lambda: OPEN_PRINCIPAL, results.append)
    for number, name in enumerate(("recovers", "raises", "fails", "wrong")):
        body: dict[str, Any] = {"user": name}
        await window.ask(RequestLine(number, name, body, 2))
    await window.emptied()
    assert asked == {"recovers": 2, "raises": SERVER_ERRORS_TRIED, "fails": SERVER_ERRORS_TRIED, "wrong": 1}
    told = {(row["custom_id"], row["response"]["status_code"]) for row in (json.loads(one.data) for one in results)}
    assert told == {("recovers", 200), ("raises", 500), ("fails", 500), ("wrong", 400)}
    assert [one.is_error for one in sorted(results, key=lambda one: one.line)] == [False, True, True, True]
