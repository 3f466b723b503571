"""Errors of the engine leave in OpenAI's shape, read by the official client, and nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from server.api.middleware.engine_errors import EngineErrors


def raw(status: int, error: Any) -> Any:
    async def answer(_: Request) -> Response:
        return JSONResponse({"error": error}, status_code=status)

    return answer


def client_of(answer: Any) -> openai.AsyncOpenAI:
    app = Starlette(routes=[Route("/v1/{path:path}", answer, methods=["POST"])])
    app.add_middleware(EngineErrors)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    return openai.AsyncOpenAI(base_url="http://engine/v1", api_key="unused", http_client=http, max_retries=0)


BAD, NONE, SERVER = "BadRequestError", "NotFoundError", "InternalServerError"


@pytest.mark.parametrize(
    ("status", "error", "message", "expected"),
    [
        (
            400,
            {"message": "long", "type": BAD, "param": "x"},
            "long",
            ("invalid_request_error", "x", "invalid_request"),
        ),
        (404, {"message": "no", "type": NONE}, "no", ("invalid_request_error", None, "not_found")),
        (400, {"message": "", "type": BAD}, "does not say why", ("invalid_request_error", None, "invalid_request")),
        (500, {"message": "x", "type": SERVER}, "x", ("server_error", None, "internal_error")),
        (400, {"message": "ours", "type": "t", "param": "p", "code": "word"}, "ours", ("t", "p", "word")),
    ],
)
async def test_codes_are_words(
    status: int, error: dict[str, Any], message: str, expected: tuple[str | None, ...]
) -> None:
    with pytest.raises(openai.APIStatusError, match=message) as caught:
        await client_of(raw(status, {"code": status, **error})).chat.completions.create(model="m", messages=[])
    assert caught.value.status_code == status
    assert (caught.value.type, caught.value.param, caught.value.code) == expected


LONG = {
    "message": "This model's maximum context length is 8 tokens. However, ...",
    "type": BAD,
    "param": "input_tokens",
}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_that_does_not_fit_has_openais_code_for_it(streamed: bool) -> None:
    error = {**LONG, "code": 400}

    async def answer(_: Request) -> Response:
        event = f"data: {json.dumps({'error': error})}\n\n"
        return StreamingResponse(iter([event]), media_type="text/event-stream")

    client = client_of(answer if streamed else raw(400, error))
    for path, field in (("chat/completions", "messages"), ("completions", "prompt"), ("responses", "input")):
        with pytest.raises(openai.APIError, match="maximum context") as caught:
            stream = await client.post(
                f"/{path}", body={}, cast_to=object, stream=streamed, stream_cls=openai.AsyncStream[object]
            )
            async for _event in stream:
                pass
        told = (caught.value.type, caught.value.code, caught.value.param)
        assert told == ("invalid_request_error", "context_length_exceeded", field)


async def test_an_error_within_a_stream_has_the_same_shape() -> None:
    error = {"message": "cut", "type": "InternalServerError", "param": None, "code": 500}

    async def answer(_: Request) -> Response:
        async def events() -> Any:
            yield 'data: {"choices": [], "id": "1"}\n\n'
            yield f"data: {json.dumps({'error': error})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    stream = await client_of(answer).chat.completions.create(model="m", messages=[], stream=True)
    with pytest.raises(openai.APIError, match="cut") as caught:
        async for _chunk in stream:
            pass
    assert (caught.value.type, caught.value.code) == ("server_error", "internal_error")


async def test_answers_pass_as_they_are() -> None:
    body = b'{"error":  {"code": 5}}'

    async def answer(_: Request) -> Response:
        return Response(body, media_type="application/json")

    response = await client_of(answer).chat.completions.with_raw_response.create(model="m", messages=[])
    assert response.content == body
