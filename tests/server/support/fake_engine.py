"""An engine that answers at once and says what it was asked to run: the gateway's tests without a model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response, StreamingResponse

from adapters.factors.factors import Factors, save_factors
from server.core.error_responses import validation_error
from server.engine.grammar import Grammar
from server.engine.grammar_turns import GrammarTurns
from server.engine.protocol import ServedAdapter, TokenObserver
from server.engine.template_cost import TemplateCost

BASE = "acme/base-135m"
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PARTS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
MODULES = [f"model.layers.{layer}.{part}" for layer in range(2) for part in PARTS]


def tiny_factors(directory: Path, seed: int = 0, modules: Sequence[str] = MODULES, rank: int = 2) -> Factors:
    """Real factors of a model with 8 x 8 weights, two layers of them."""
    generator = torch.Generator().manual_seed(seed)
    triplets = []
    for module in modules:
        left, values, right = torch.linalg.svd(torch.randn(8, 8, generator=generator))
        triplets.append((module, (left[:, :rank], values[:rank], right[:rank].T)))
    return save_factors(
        directory,
        triplets,
        rank=rank,
        kind="svd",
        seed=seed,
        base_model=BASE,
        config_sha256="0" * 64,
        weights_fingerprint=f"tiny-{seed}",
    )


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]]
    model: str | None = None
    stream: bool = False
    stop: str | list[str] | None = None


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    response_format: ResponseFormat | None = None


class ResponsesTool(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = ""


class ResponsesRequest(BaseModel):
    """Of vLLM's the fields that are looked at here, with its types."""

    model_config = ConfigDict(extra="allow")

    input: str | list[Any] | None = None
    request_id: str = ""
    max_output_tokens: int | None = None
    stream: bool | None = False
    tools: list[ResponsesTool] = []


REQUESTS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
}


class FakeEngine:
    """`why_no_tools`, `alive`, `hold` (an event an answer waits for, a stream after its first chunk), `chunk_s`
    (seconds behind each chunk of a stream, and before a whole answer) and `base_answer` (what it says without an
    adapter) are for the tests to set.

    `received` are the chat requests, `heard` the headers of all requests, and `grammars` all grammars, as they came;
    `bad_grammars` says of specs why they are refused.
    """

    def __init__(self, factors: Factors) -> None:
        self.base_models = (BASE, "base-alias")
        self.factors = factors
        self.max_model_len = 128
        self.chat_template_kwargs: dict[str, Any] = {}
        self.max_num_seqs = 4
        self.template_cost = TemplateCost()
        self.why_no_tools: str | None = None
        self.constrains_all_tools = False
        self.has_reasoning = False
        self.has_thinking_budgets = False
        self.grammars: list[Grammar] = []
        self.bad_grammars: dict[str, str] = {}
        self._turns: GrammarTurns[str | None] = GrammarTurns()
        self.alive = True
        self.silent_s = 0.0
        self.prompt_tokens = 3  # of a chat
        self.hold: asyncio.Event | None = None
        self.chunk_s = 0.0
        self.hold_grammars: asyncio.Event | None = None  # what is found out about those with "slow" in them waits
        self.base_answer = "base"
        self.received: list[ChatRequest] = []
        self.heard: list[Headers] = []
        self.asked: list[dict[str, Any]] = []  # bodies of /v1/responses
        self.too_long: str | None = None  # an input that is refused when its turn has come
        self.why_too_long = "The prompt is too long"
        self.breaks_off = False  # whether streams of responses end in the middle, and those of chats without a reason
        self._active: ContextVar[ServedAdapter | None] = ContextVar("active", default=None)
        self._observe: ContextVar[TokenObserver | None] = ContextVar("observe", default=None)

    def mount(self, app: FastAPI) -> None:
        for path, handle in (
            ("/v1/chat/completions", self._chat),
            ("/v1/messages", self._message),
            ("/v1/responses", self._respond),
            ("/v1/completions", self._echo),
            ("/tokenize", self._echo),
            ("/v1/audio/transcriptions", self._echo),
            ("/v1/fail/{kind}", self._fail),
        ):
            app.add_api_route(path, handle, methods=["POST"], dependencies=[Depends(self._hear)])

    async def why_no_grammar(self, grammar: Grammar, tenant: int) -> str | None:
        self.grammars.append(grammar)
        return await self._turns.ask(tenant, grammar.spec, partial(self._why_not, grammar), urgent=False)

    async def _why_not(self, grammar: Grammar) -> str | None:
        if self.hold_grammars is not None and "slow" in grammar.spec:
            await self.hold_grammars.wait()
        return self.bad_grammars.get(grammar.spec)

    def check_request(self, path: str, payload: Mapping[str, Any]) -> None:
        try:
            if (model := REQUESTS.get(path)) is not None:
                model.model_validate(payload)
        except ValidationError as error:
            raise validation_error(error.errors(include_url=False)) from error

    async def message_of(
        self, tokens: Sequence[int], tools: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        if max(tokens) >= 1_000_000:
            raise ValueError("there is no such token")
        return {"role": "assistant", "content": " ".join(map(str, tokens))}

    async def check_health(self) -> None:
        if not self.alive:
            raise RuntimeError("the engine's process is gone")

    def activate(
        self,
        served: ServedAdapter | None,
        observe: TokenObserver | None = None,
        *,
        prompt_only: bool = False,
        tenant: int | None = None,
    ) -> None:
        self._active.set(served)
        self._observe.set(observe)

    def _report(self, prompt_tokens: int, completion_tokens: int) -> None:
        observe = self._observe.get()
        if observe is not None:
            observe(prompt_tokens, completion_tokens, 0)

    def _hear(self, request: Request) -> None:
        self.heard.append(request.headers)

    async def _chat(self, request: ChatRequest, http: Request) -> Response:
        served = self._active.get()
        self.received.append(request)
        # As vLLM does: a model is the base model or the adapter of this request.
        if request.model not in (None, "", *self.base_models) and (served is None or served.name != request.model):
            raise HTTPException(404, f"no model {request.model}")
        content = f"{served.name}: {served.adapter.vector().flatten().tolist()}" if served else self.base_answer
        head = {"id": "chatcmpl-1", "created": 1, "model": request.model or BASE}
        if request.stream:
            return StreamingResponse(self._chunks(head, content), media_type="text/event-stream")
        if self.hold is not None and not await self._held(self.hold, http):
            return Response()
        await asyncio.sleep(self.chunk_s)
        self._report(self.prompt_tokens, 2)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        used = self.prompt_tokens
        usage = {"prompt_tokens": used, "completion_tokens": 2, "total_tokens": used + 2}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _message(self, body: dict[str, Any]) -> Response:
        if body.get("fail") == "own":  # as vLLM says it, whose types are not Anthropic's
            error = {"type": "BadRequestError", "message": "prompt is too long"}
            return JSONResponse({"type": "error", "error": error}, status_code=400)
        if body.get("fail") == "long":
            error = {"type": "BadRequestError", "message": "This model's maximum context length is 128 tokens."}
            return JSONResponse({"type": "error", "error": error}, status_code=400)
        if body.get("fail") == "unexpected":
            await self._fail("unexpected")
        if self.hold is not None:
            await self.hold.wait()
        self._report(3, 2)
        content = [{"type": "text", "text": self.base_answer}]
        answer = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body.get("model") or BASE,
            "content": content,
        }
        usage = {"input_tokens": 3, "output_tokens": 2}
        return JSONResponse({**answer, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage})

    async def _respond(self, request: ResponsesRequest, http: Request) -> Response:
        """As vLLM does, with its events: an answer that says how long `input` is, cut off where it may be short."""
        body = request.model_dump(exclude_unset=True)
        self.asked.append(body)
        if body.get("input") == self.too_long:
            error = {"message": self.why_too_long, "type": "Bad Request", "param": "input"}
            return JSONResponse({"error": {**error, "code": 400}}, status_code=400)
        served = self._active.get()
        sent = body.get("input")
        items = sent if isinstance(sent, list) else [{"role": "user", "content": sent}]
        text = f"{served.name if served else self.base_answer} after {len(items)} items"
        message = {"type": "message", "id": f"msg_{body['request_id']}", "role": "assistant", "status": "completed"}
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
        output: list[dict[str, Any]] = [{**message, "content": [part]}]
        if body.get("tool_choice") == "required" and body.get("tools"):
            call = {"name": body["tools"][0]["name"], "arguments": "{}", "call_id": f"call_{body['request_id'][-28:]}"}
            output = [{"type": "function_call", "id": f"fc_{body['request_id']}", "status": "completed", **call}]
        most = body.get("max_output_tokens") or 100
        answer = {
            "id": body["request_id"], "object": "response", "created_at": int(time.time()),
            "model": served.name if served else BASE,
            "instructions": body.get("instructions"), "incomplete_details": None, "metadata": body.get("metadata"),
            "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0, "max_output_tokens": most,
            "tool_choice": body.get("tool_choice", "auto"), "tools": body.get("tools", []), "background": False,
            "previous_response_id": None, "service_tier": "auto", "truncation": "disabled", "output": output,
            "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        }  # fmt: skip
        if most < 3:
            answer |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        if body.get("stream"):
            return StreamingResponse(self._response_events(answer, text), media_type="text/event-stream")
        if self.hold is not None and not await self._held(self.hold, http):
            return JSONResponse(None)
        self._report(3, 2)
        return JSONResponse(answer)

    async def _response_events(self, answer: dict[str, Any], text: str) -> AsyncIterator[str]:
        begun = {**answer, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        [item] = answer["output"]
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
            {"type": "response.content_part.added", **place, "part": {**item["content"][0], "text": ""}},
            *({"type": "response.output_text.delta", **place, "delta": f"{word} "} for word in text.split()),
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": answer},
        ]
        self._report(3, 2)
        for number, event in enumerate(events):
            yield f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
            await asyncio.sleep(self.chunk_s)
            if number == 4 and self.hold is not None:
                await self.hold.wait()
            if number == 4 and self.breaks_off:
                raise RuntimeError("the engine's process is gone")

    async def _held(self, hold: asyncio.Event, http: Request) -> bool:
        """Waits; as vLLM does, not for a client that has left."""
        held, left = asyncio.create_task(hold.wait()), asyncio.create_task(http.receive())
        await asyncio.wait((held, left), return_when=asyncio.FIRST_COMPLETED)
        finished = held.done()
        held.cancel()
        left.cancel()
        return finished

    async def _chunks(self, head: dict[str, Any], content: str) -> AsyncIterator[str]:
        self._report(self.prompt_tokens, 1)
        words = content.split(" ")
        for number, text in enumerate(words):
            is_end = number == len(words) - 1 and not self.breaks_off
            choice = {"index": 0, "delta": {"content": text + " "}, "finish_reason": "stop" if is_end else None}
            yield f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
            if number == 0 and self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(self.chunk_s)
        self._report(0, 1)
        yield "data: [DONE]\n\n"

    async def _echo(self, request: Request) -> Response:
        served = self._active.get()
        headers = {"x-active": served.name if served else "base", "x-length": request.headers.get("content-length", "")}
        headers["x-seen-request-id"] = request.headers.get("x-request-id", "")
        return Response(await request.body(), headers=headers)

    async def _fail(self, kind: str) -> None:
        if kind == "http":
            raise HTTPException(409, "busy", headers={"retry-after": "1"})
        if kind == "sentence":  # as vLLM does for a content type
            raise RequestValidationError(["Only 'application/json' is allowed"])
        if kind == "value":
            raise ValueError("prompt is too long")
        if kind == "unsupported":
            raise NotImplementedError("The model does not do this")
        raise KeyError("a secret of the engine")
