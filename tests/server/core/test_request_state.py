"""What the engine reports reaches the usage of its own request, and the counters of its adapter."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.request_state import RequestUsage, state_of
from tests.server.conftest import client_of


class Peek:
    """Keeps the usage of every inference request that passes."""

    def __init__(self, app: ASGIApp, kept: list[RequestUsage]) -> None:
        self._app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})
        await self._app(scope, receive, send)
        usage = state_of(scope).usage
        assert usage is not None
        self._kept.append(usage)


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_concurrent_requests_are_told_apart(app: FastAPI, stream: bool) -> None:
    kept: list[RequestUsage] = []
    app.add_middleware(Peek, kept=kept)
    async with client_of(app) as client:
        body = {"messages": [], "stream": stream}
        await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(5)))
    assert kept == [RequestUsage(3, 2)] * 5
    assert kept[0].total_tokens == 5


async def test_tokens_are_counted_by_adapter(client: httpx.AsyncClient) -> None:
    adapter = {"vector": [1.0] * 13}
    for body in ({"messages": []}, {"messages": [], "adapter": adapter}, {"messages": [], "adapter": adapter}):
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    text = (await client.get("/metrics")).text
    assert 'tinylora_prompt_tokens_total{adapter="base"} 3.0' in text
    assert 'tinylora_completion_tokens_total{adapter="inline"} 4.0' in text
