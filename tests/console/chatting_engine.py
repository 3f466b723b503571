"""The engine that samples, with chat: answers that stream token by token as vLLM's do, with their log-probabilities."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from adapters.factors.factors import Factors
from server.engine.protocol import ServedAdapter, TokenObserver
from tests.server.support.sampling_engine import NAME, WORDS, SamplingEngine, tiny_tokenizer


class ChattingEngine(SamplingEngine):
    """`hold`, if it is set, is awaited behind the first token of every answer that streams."""

    def __init__(self, path: Path, factors: Factors) -> None:
        super().__init__(path, factors)
        self.hold_stream: asyncio.Event | None = None
        self.stopped = 0
        self._tokenizer = tiny_tokenizer()
        self._observe: ContextVar[TokenObserver | None] = ContextVar("observe", default=None)

    def mount(self, app: FastAPI) -> None:
        super().mount(app)
        app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])

    def activate(
        self,
        served: ServedAdapter | None,
        observe: TokenObserver | None = None,
        *,
        prompt_only: bool = False,
        tenant: int | None = None,
    ) -> None:
        super().activate(served, observe, prompt_only=prompt_only, tenant=tenant)
        self._observe.set(observe)

    async def _chat(self, request: Request) -> Any:
        body = await request.json()
        self.received.append(body)
        self.adapters.append(self._active.get())
        prompt = self._tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        [choice] = self._sample({**body, "prompt": prompt, "max_tokens": min(body["max_tokens"], 12)}, 1)
        observe = self._observe.get()
        if observe is not None:
            observe(len(prompt), len(choice["token_ids"]), 0)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(choice["token_ids"])}
        head = {"id": "chatcmpl-1", "created": 1, "model": body.get("model", NAME)}
        if body.get("stream"):
            chunks = self._stream(head | {"object": "chat.completion.chunk"}, prompt, choice, usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(f" {WORDS[token]}" for token in choice["token_ids"])}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return {**head, "object": "chat.completion", "choices": choices, "usage": usage}

    async def _stream(
        self, head: dict[str, Any], prompt: list[int], choice: dict[str, Any], usage: dict[str, int]
    ) -> AsyncIterator[str]:
        try:
            for place, token in enumerate(choice["token_ids"]):
                text, logprob = f" {WORDS[token]}", choice["logprobs"]["token_logprobs"][place]
                content = [{"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}]
                delta = {"index": 0, "delta": {"content": text}, "logprobs": {"content": content}, "token_ids": [token]}
                told = {"prompt_token_ids": prompt} if place == 0 else {}
                assert math.isfinite(logprob)
                yield f"data: {json.dumps({**head, **told, 'choices': [delta]})}\n\n"
                if place == 0 and self.hold_stream is not None:
                    await self.hold_stream.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"
