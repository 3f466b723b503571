"""What the tests say to the server: uploads of raw bytes, and greedy chats with their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import openai
import torch

QUESTION = "What is the capital of France?"
TOKENS = 8


def vector_bytes(value: float | torch.Tensor) -> bytes:
    """13 numbers in bfloat16, little-endian: 26 bytes."""
    values = torch.full((13,), value) if isinstance(value, float) else value
    return values.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


def random_vector(seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(13, generator=torch.Generator().manual_seed(seed))


def user(question: str) -> Any:
    """The messages of a chat that asks `question`."""
    return [{"role": "user", "content": question}]


@dataclass(frozen=True)
class Answer:
    model: str
    text: str
    tokens: list[str]
    logprobs: list[float]

    @classmethod
    def of(cls, completion: Any) -> Answer:
        choice = completion.choices[0]
        return cls(
            completion.model,
            choice.message.content,
            [item.token for item in choice.logprobs.content],
            [item.logprob for item in choice.logprobs.content],
        )


@dataclass(frozen=True)
class Talk:
    client: openai.OpenAI
    http: httpx.Client
    base: str

    def upload(self, name: str, value: float | torch.Tensor) -> bytes:
        """Stores 26 bytes under `name` and returns them."""
        data = vector_bytes(value)
        assert len(data) == 26
        response = self.http.post(
            "/adapters", params={"name": name}, content=data, headers={"content-type": "application/octet-stream"}
        )
        assert response.status_code == 201, response.text
        return data

    def greedy(self, adapter: object = None, *, model: str | None = None, question: str = QUESTION) -> Answer:
        return Answer.of(self.client.chat.completions.create(**self.greedy_request(adapter, model, question)))

    def greedy_request(
        self, adapter: object = None, model: str | None = None, question: str = QUESTION
    ) -> dict[str, Any]:
        """The arguments of `chat.completions.create`; `adapter` None leaves the field out."""
        return {
            "model": model or self.base,
            "messages": user(question),
            "temperature": 0,
            "max_tokens": TOKENS,
            "logprobs": True,
            "extra_body": {"ignore_eos": True} | ({} if adapter is None else {"adapter": adapter}),
        }
