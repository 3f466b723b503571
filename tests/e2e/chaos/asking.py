"""How a client asks, and what is kept of the answer."""

from __future__ import annotations

import base64
import json
import random
from collections import deque
from typing import Any

import httpx
import torch
from torch import Tensor

from tests.e2e.chaos.world import Answer, Named, Seen, Tenant
from tests.e2e.talking import vector_bytes

QUESTIONS = ("What is the capital of France?", "Write one sentence about the sea.", "Name three colours.", "2 + 2 =")
# The same before several questions, so that a tenant's adapters meet in the prefix cache.
SYSTEM = "You are a helpful assistant who answers in one short sentence and never says more than was asked for."
SCALE = 0.2


class Asker:
    """Draws requests from `seed`, and keeps the answers to them for comparison. `model` is the base model's name."""

    def __init__(self, http: httpx.AsyncClient, model: str, seed: int) -> None:
        self.http = http
        self.model = model
        self.answers: deque[Answer] = deque()  # not compared yet
        self._random = random.Random(seed)
        self._torch = torch.Generator().manual_seed(seed)

    def _vector(self) -> Tensor:
        """13 numbers as bfloat16 has them."""
        return (SCALE * torch.randn(13, generator=self._torch)).bfloat16().float()

    def _chat(self) -> dict[str, Any]:
        question = self._random.choice(QUESTIONS)
        messages = [{"role": "user", "content": question}]
        if self._random.random() < 0.3:
            messages.insert(0, {"role": "system", "content": SYSTEM})
        return {
            "model": self.model, "messages": messages, "temperature": 0, "logprobs": True, "ignore_eos": True,
            "max_tokens": self._random.choice((1, 4, 8, 16)), "return_token_ids": True,
        }  # fmt: skip

    async def _send(self, tenant: Tenant, method: str, url: str, **request: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {tenant.key}"}
        return await self.http.request(method, url, headers=headers, **request)

    async def _post(self, tenant: Tenant, url: str, body: dict[str, Any]) -> httpx.Response:
        # By hand: the client's own encoder refuses half surrogates.
        content = json.dumps(body).encode()
        headers = {"authorization": f"Bearer {tenant.key}", "content-type": "application/json"}
        return await self.http.post(url, content=content, headers=headers)

    def _note_named(self, asked: str, name: str, seen: Seen, expected: int | None, response: httpx.Response) -> None:
        if response.status_code == 404:
            assert expected is None or not seen.still_true, f"{asked}: {response.text}"
            return
        assert response.status_code == 200, f"{asked}: {response.text}"
        model = response.json()["model"]
        assert model == response.headers["x-tinylora-adapter"]
        answered_by, _, version = model.rpartition("@")
        assert answered_by == name
        assert int(version) == expected or not seen.still_true, f"{asked}: {model}, expected version {expected}"
        self._note_version(asked, seen.named, int(version), response)

    def _note_version(self, asked: str, named: Named, version: int, response: httpx.Response) -> None:
        if version in named.versions:  # else an upload that is being answered
            self._note(f"{asked} -> {version}", named.versions[version], response)

    def _note(self, asked: str, vector: Tensor | None, response: httpx.Response) -> None:
        assert response.status_code == 200, f"{asked}: {response.text}"
        answer = response.json()
        for choice in answer["choices"]:
            logprobs = tuple(item["logprob"] for item in choice["logprobs"]["content"])
            self._keep(asked, vector, answer["prompt_token_ids"], choice["token_ids"], logprobs)

    def _keep(
        self, asked: str, vector: Tensor | None, prompt: list[int], tokens: list[int], logprobs: tuple[float, ...]
    ) -> None:
        assert len(tokens) == len(logprobs), asked
        if tokens:
            self.answers.append(Answer(asked, vector, tuple(prompt), tuple(tokens), logprobs))


def inline(vector: Tensor) -> dict[str, Any]:
    """As bytes where bfloat16 holds the numbers, else as numbers."""
    if torch.equal(vector.bfloat16().float(), vector):
        return {"vector": base64.b64encode(vector_bytes(vector)).decode()}
    return {"vector": vector.tolist(), "dtype": "float32"}
