"""SIGTERM lets running answers end, and a server over the same database serves the same adapters."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from tests.e2e.running import AS_ADMIN, ServerProcess
from tests.e2e.talking import QUESTION, Talk, random_vector, user

pytestmark = pytest.mark.engine

STREAMED_TOKENS = 150


def test_sigterm_ends_the_stream_whole_and_a_restart_answers_the_same(server: ServerProcess, talk: Talk) -> None:
    talk.upload("acme/kept", random_vector(7, scale=0.2))
    before = talk.greedy("acme/kept")
    body = {
        "model": talk.base, "adapter": "acme/kept", "messages": user(QUESTION), "temperature": 0, "stream": True,
        "max_tokens": STREAMED_TOKENS, "ignore_eos": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=body, headers=AS_ADMIN, timeout=120
    ) as response:
        assert response.status_code == 200
        lines = (line for line in response.iter_lines() if line)
        received = [next(lines) for _ in range(5)]
        server.terminate()
        assert refuses_connections(server.url)
        assert server.process.poll() is None
        received += lines
    assert received[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in received[:-1]]
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == STREAMED_TOKENS
    assert server.wait() == 0, server.output()
    assert "Traceback" not in server.output()

    server.start()
    with httpx.Client(base_url=server.url, headers=AS_ADMIN, timeout=120) as http:
        again = Talk(talk.client.with_options(base_url=f"{server.url}/v1"), http, server.model).greedy("acme/kept")
    assert again.model == "acme/kept@1"
    assert again.tokens == before.tokens
    assert again.logprobs == pytest.approx(before.logprobs, abs=1e-3)


def refuses_connections(url: str) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/health", timeout=5)
        except httpx.ConnectError:
            return True
        time.sleep(0.05)
    return False
