"""Asking several adapters the same at once, with their answers as they stream in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clients.cli.calls import printable

if TYPE_CHECKING:
    from tinylora_client import AsyncTinyLoRA

BASE = "base"


@dataclass(slots=True)
class Voice:
    """Who answers: an adapter at a strength, or the base model (BASE). `said`: what was said to and by it."""

    adapter: str
    strength: float = 1.0
    said: list[dict[str, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.adapter if self.strength == 1 or self.adapter == BASE else f"{self.adapter} x {self.strength:g}"

    def field(self) -> Any:
        """What the client takes as `adapter`."""
        if self.adapter == BASE:
            return None
        return self.adapter if self.strength == 1 else {self.adapter: self.strength}


@dataclass(slots=True)
class Answer:
    """As far as it has come. first_token_s, seconds: since it was asked for."""

    text: str = ""
    tokens: int | None = None
    finish_reason: str | None = None
    first_token_s: float | None = None
    seconds: float = 0.0


async def ask(
    client: AsyncTinyLoRA,
    model: str,
    message: str,
    voices: Sequence[Voice],
    answers: Sequence[Answer],
    options: Mapping[str, Any],
    changed: Callable[[int, str], None],
) -> None:
    """Fill `answers`, one of each voice. `changed` gets a voice's place and the text that has come.

    options: of the request. A voice that cannot be asked ends it for all with openai's error.
    """
    async with asyncio.TaskGroup() as group:
        for place, (voice, answer) in enumerate(zip(voices, answers, strict=True)):
            group.create_task(_one(client, model, message, voice, answer, options, place, changed))


async def _one(
    client: AsyncTinyLoRA,
    model: str,
    message: str,
    voice: Voice,
    answer: Answer,
    options: Mapping[str, Any],
    place: int,
    changed: Callable[[int, str], None],
) -> None:
    from openai import APIError

    began = time.monotonic()
    messages: Any = [*voice.said, {"role": "user", "content": message}]
    stream = await client.chat.completions.create(
        model=model,
        messages=messages,
        adapter=voice.field(),
        stream=True,
        stream_options={"include_usage": True},
        **options,
    )
    async with stream:
        async for chunk in stream:
            if chunk.usage is not None:
                answer.tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                answer.finish_reason = choice.finish_reason or answer.finish_reason
                text = printable(choice.delta.content or "")
                if text:
                    answer.first_token_s = answer.first_token_s or time.monotonic() - began
                    answer.text += text
                    changed(place, text)
    if answer.finish_reason is None:
        raise APIError("the answer broke off before its end", stream.response.request, body=None)
    answer.seconds = time.monotonic() - began
