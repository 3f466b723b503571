"""A judge over HTTP: answers chat completions from a script, and keeps what it was asked."""

from collections.abc import Sequence
from typing import Any

import httpx2
import openai
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

Answer = str | None | tuple[int, dict[str, Any]]


def judge(*answers: Answer, refusal: str | None = None) -> tuple[openai.AsyncOpenAI, list[dict[str, Any]]]:
    """A client of a judge that gives `answers` in turn (the last one for ever), and the bodies of its requests."""
    app = FastAPI()
    requests: list[dict[str, Any]] = []

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        requests.append(await request.json())
        answer = answers[min(len(requests), len(answers)) - 1]
        if isinstance(answer, tuple):
            status, error = answer
            return JSONResponse({"error": error}, status_code=status)
        return JSONResponse(completion(answer, refusal))

    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    client = openai.AsyncOpenAI(base_url="http://judge/v1", api_key="k", http_client=http_client, max_retries=0)
    return client, requests


def completion(content: str | None, refusal: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choices: Sequence[dict[str, Any]] = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge-2026",
        "choices": choices,
        "usage": usage,
    }
