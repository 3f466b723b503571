"""Answers that come in pieces, and are cut off between two of them; answers that ask for patience."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import httpx
import pytest

from server.training.worker.http_retry import GatewayRefused, RetryPolicy, request_with_retries
from tests.server.training.graders.endpoint_app import endpoint_app

IMPATIENT = RetryPolicy(first_delay_s=0.01, max_delay_s=0.02, max_attempts=2)


class Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes | None]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if piece is None:
                raise httpx.ReadError("cut off")
            yield piece


async def test_a_file_that_was_cut_off_is_written_from_its_beginning() -> None:
    answers: list[list[bytes | None]] = [[b"first half, and more than", None], [b"all ", b"of it"]]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Pieces(answers.pop(0)))

    into = io.BytesIO()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway") as http:
        response = await request_with_retries(http, "GET", "/file", retry_policy=IMPATIENT, into=into)
    assert into.getvalue() == b"all of it"
    assert response.is_success


async def test_a_refusal_is_no_file() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"error": {"code": "file_not_found", "message": "no such file"}})

    into = io.BytesIO()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway") as http:
        with pytest.raises(GatewayRefused, match="no such file"):
            await request_with_retries(http, "GET", "/file", retry_policy=IMPATIENT, into=into)
    assert into.getvalue() == b""


@pytest.mark.parametrize("value", ["nan", "inf"])
async def test_a_retry_after_without_a_number_is_none(value: str) -> None:
    told: list[str] = []
    with endpoint_app((503, {}), (200, {}), headers={"retry-after": value}) as app:
        async with httpx.AsyncClient() as http:
            await request_with_retries(http, "POST", app.url, retry_policy=IMPATIENT, json={}, report=told.append)
    assert told == [f"{app.url}: status 503; again in 0.0 s"]


async def test_a_request_of_which_engines_die_is_given_up_after_some_of_them() -> None:
    dead = (503, {"error": {"code": "engine_unavailable", "message": "The engine has died."}})
    restarts = (503, {})
    with endpoint_app(restarts, restarts, dead, restarts, dead, (200, {})) as app:
        async with httpx.AsyncClient() as http:
            with pytest.raises(GatewayRefused, match="has died"):
                await request_with_retries(http, "POST", app.url, retry_policy=IMPATIENT, json={})
    with endpoint_app(restarts, restarts, dead, restarts, (200, {})) as app:
        async with httpx.AsyncClient() as http:
            assert (await request_with_retries(http, "POST", app.url, retry_policy=IMPATIENT, json={})).is_success
