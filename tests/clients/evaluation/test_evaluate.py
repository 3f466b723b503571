"""An evaluation outlasts the server's limit of graded answers in a minute."""

from __future__ import annotations

import json
from collections import Counter

import httpx
from openai import AsyncOpenAI

from clients.evaluation.evaluate import MATH, Sampling, evaluate
from clients.evaluation.rows import Row
from tinylora_client import AsyncTinyLoRA

# Of every answer, before it is graded.
REFUSALS = 12


async def test_answers_that_the_server_will_grade_later_are_graded_later() -> None:
    refused: Counter[str] = Counter()

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            model = {"id": "base", "object": "model", "created": 1, "owned_by": "x", "root": "base"}
            return httpx.Response(200, json=model)
        body = json.loads(request.content)
        if request.url.path.endswith("/chat/completions"):
            text = body["messages"][-1]["content"]
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            return httpx.Response(
                200, json={"id": "c", "object": "chat.completion", "created": 1, "model": "base", "choices": [choice]}
            )
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
