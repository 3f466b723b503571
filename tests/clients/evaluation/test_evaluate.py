"""An evaluation outlasts the server's limit of graded answers in a minute."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from clients.evaluation.evaluate import MATH, NoRewards, Sampling, evaluate
from clients.evaluation.rows import Row
from tinylora_client import AsyncTinyLoRA

# Of every answer, before it is graded.
REFUSALS = 12
MODEL = {"id": "base", "object": "model", "created": 1, "owned_by": "x", "root": "base"}


def completion(*texts: str) -> httpx.Response:
    """A server's answer with a choice for each text."""
    choices = [
        {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        for index, text in enumerate(texts)
    ]
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "base", "choices": choices}
    return httpx.Response(200, json=answer)


async def test_answers_that_the_server_will_grade_later_are_graded_later() -> None:
    refused: Counter[str] = Counter()

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=MODEL)
        body = json.loads(request.content)
        if request.url.path.endswith("/chat/completions"):
            return completion(body["messages"][-1]["content"])
        refused[body["model_sample"]] += 1
        if refused[body["model_sample"]] <= REFUSALS:
            error = {"message": "Try again in 1ms.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
            return httpx.Response(429, json={"error": error}, headers={"retry-after-ms": "1"})
        metadata = {"type": "math", "errors": {}, "detail": {"answer": body["model_sample"]}}
        return httpx.Response(200, json={"reward": 1.0, "metadata": metadata})

    rows = [Row([{"role": "user", "content": str(number)}], {"answer": str(number)}) for number in range(6)]
    for kind in (AsyncOpenAI, AsyncTinyLoRA):
        refused.clear()
        http = httpx.AsyncClient(transport=httpx.MockTransport(serve))
        async with kind(base_url="http://server/v1", api_key="x", http_client=http, max_retries=0) as client:
            found = await evaluate(client, "base", rows, MATH, Sampling())
        assert found.rewards == [[1.0]] * len(rows)
        assert refused == {str(number): REFUSALS + 1 for number in range(6)}


async def test_failures_count_as_in_a_job() -> None:
    """What the sample is to blame for is the worst of all; what the grader itself failed on is no reward."""
    rewards: dict[str, Any] = {"good": 1.0, "bad": -1.0, "no JSON": 0.0, "away": 0.0}

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=MODEL)
        body = json.loads(request.content)
        if request.url.path.endswith("/chat/completions"):
            return completion(*body["messages"][-1]["content"].split(", "))
        text = body["model_sample"]
        errors = {"message": text if text in ("no JSON", "away") else None}
        metadata = {"type": "python", "errors": errors, "detail": {}, "is_outage": text == "away"}
        return httpx.Response(200, json={"reward": rewards[text], "metadata": metadata})

    def rows_of(*texts: str) -> list[Row]:
        return [Row([{"role": "user", "content": text}], {}) for text in texts]

    http = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    async with AsyncOpenAI(base_url="http://server/v1", api_key="x", http_client=http, max_retries=0) as client:
        rows = rows_of("good, away", "no JSON, good", "away, away", "bad, bad")
        found = await evaluate(client, "base", rows, {"type": "python"}, Sampling(2, 1.0))
        assert found.rewards == [[1.0], [-1.0, 1.0], [], [-1.0, -1.0]]
        assert (found.pass_at_1.mean, found.pass_at_1.rows) == (0.0, 3)
        assert found.better_than(found).rows == 3
        assert found.errors == {"away": 3, "no JSON": 1}
        with pytest.raises(NoRewards, match="not one answer could be graded: away"):
            await evaluate(client, "base", rows_of("away, away"), {"type": "python"}, Sampling(2, 1.0))
