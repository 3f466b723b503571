"""What clients do, one operation at a time, chosen at random from a seed.

Every operation checks its status and names at once, and leaves its answers for the comparison of log-probabilities.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import torch

from tests.e2e.chaos.asking import QUESTIONS, Asker, inline
from tests.e2e.chaos.world import ALIAS, NAMES, Tenant
from tests.e2e.talking import vector_bytes

OCTETS = {"content-type": "application/octet-stream"}


class Chaos(Asker):
    """`tenants` share the names of their adapters; `model` is the base model's name."""

    def __init__(self, http: httpx.AsyncClient, tenants: list[Tenant], model: str, seed: int) -> None:
        super().__init__(http, model, seed)
        self.tenants = tenants
        self.forgiven: list[str] = []  # mistakes that were not told
        self.counts: Counter[str] = Counter()
        self._operations: list[tuple[int, Callable[[Tenant], Awaitable[None]]]] = [
            (20, self.chat_by_name), (6, self.chat_by_model), (8, self.chat_by_version), (8, self.chat_by_alias),
            (14, self.chat_inline), (8, self.chat_mixed), (8, self.chat_base), (8, self.stream), (6, self.stream_left),
            (5, self.several), (5, self.complete), (8, self.upload), (2, self.delete), (3, self.restore),
            (4, self.move_alias), (10, self.mistake), (3, self.strangers), (2, self.overflow),
        ]  # fmt: skip

    async def step(self) -> None:
        weights = [weight for weight, _ in self._operations]
        (_, operation), *_ = self._random.choices(self._operations, weights)
        self.counts[operation.__name__] += 1
        await operation(self._random.choice(self.tenants))

    # Reading

    async def chat_by_name(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        seen = tenant.adapters[name].now()
        response = await self._post(tenant, "/v1/chat/completions", {**self._chat(), "adapter": name})
        self._note_named(f"{tenant.name}: {name}", name, seen, seen.latest, response)

    async def chat_by_model(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        seen = tenant.adapters[name].now()
        response = await self._post(tenant, "/v1/chat/completions", {**self._chat(), "model": name})
        self._note_named(f"{tenant.name}: model {name}", name, seen, seen.latest, response)

    async def chat_by_alias(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        seen = tenant.adapters[name].now()
        response = await self._post(tenant, "/v1/chat/completions", {**self._chat(), "adapter": f"{name}@{ALIAS}"})
        expected = seen.if_live(seen.alias)
        self._note_named(f"{tenant.name}: {name}@{ALIAS}", name, seen, expected, response)

    async def chat_by_version(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        seen = tenant.adapters[name].now()
        if not seen.named.versions:
            return
        version = self._random.choice(list(seen.named.versions))
        route = self._random.choice(("/v1/chat/completions", "/invocations"))
        response = await self._post(tenant, route, {**self._chat(), "adapter": f"{name}@{version}"})
        expected = seen.if_live(version)
        self._note_named(f"{tenant.name}: {name}@{version} at {route}", name, seen, expected, response)

    async def chat_inline(self, tenant: Tenant) -> None:
        vector = self._vector()
        response = await self._post(tenant, "/v1/chat/completions", {**self._chat(), "adapter": inline(vector)})
        self._note(f"{tenant.name}: inline", vector, response)

    async def chat_mixed(self, tenant: Tenant) -> None:
        parts = [(self._vector(), self._random.choice((0.25, 0.5, -0.5, 1.0))) for _ in range(3)]
        adapter = [{"adapter": inline(vector), "weight": weight} for vector, weight in parts]
        response = await self._post(tenant, "/v1/chat/completions", {**self._chat(), "adapter": adapter})
        mixed = torch.stack([weight * vector.double() for vector, weight in parts]).sum(0).float()
        self._note(f"{tenant.name}: mixture", mixed, response)

    async def chat_base(self, tenant: Tenant) -> None:
        self._note(f"{tenant.name}: base", None, await self._post(tenant, "/v1/chat/completions", self._chat()))

    async def several(self, tenant: Tenant) -> None:
        vector = self._vector()
        body = {**self._chat(), "n": 3, "temperature": 1.0, "adapter": inline(vector)}
        response = await self._post(tenant, "/v1/chat/completions", body)
        assert len(response.json()["choices"]) == 3
        self._note(f"{tenant.name}: n = 3", vector, response)

    async def complete(self, tenant: Tenant) -> None:
        vector = self._vector()
        body = {
            "model": self.model, "prompt": self._random.choice(QUESTIONS), "max_tokens": 6, "temperature": 0,
            "logprobs": 0, "return_token_ids": True, "ignore_eos": True, "adapter": inline(vector),
        }  # fmt: skip
        response = await self._post(tenant, "/v1/completions", body)
        assert response.status_code == 200, response.text
        for choice in response.json()["choices"]:
            logprobs = tuple(choice["logprobs"]["token_logprobs"])
            self._keep(f"{tenant.name}: completion", vector, choice["prompt_token_ids"], choice["token_ids"], logprobs)

    async def stream(self, tenant: Tenant) -> None:
        await self._stream(tenant, leave_after=None)

    async def stream_left(self, tenant: Tenant) -> None:
        await self._stream(tenant, leave_after=self._random.randint(1, 6))

    async def _stream(self, tenant: Tenant, leave_after: int | None) -> None:
        vector = self._vector()
        body = {**self._chat(), "stream": True, "max_tokens": 24, "adapter": inline(vector)}
        prompt: list[int] = []
        tokens: list[int] = []
        logprobs: list[float] = []
        headers = {"authorization": f"Bearer {tenant.key}"}
        async with self.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status_code == 200
            chunks = 0
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                prompt = chunk.get("prompt_token_ids") or prompt
                for choice in chunk["choices"]:
                    tokens += choice.get("token_ids") or []
                    logprobs += [item["logprob"] for item in (choice.get("logprobs") or {}).get("content") or []]
                chunks += 1
                if chunks == leave_after:
                    break
        self._keep(f"{tenant.name}: stream", vector, prompt, tokens[: len(logprobs)], tuple(logprobs))

    # Writing

    async def upload(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        named, vector = tenant.adapters[name], self._vector()
        with named.changing():
            response = await self.http.post(
                "/adapters", params={"name": name}, content=vector_bytes(vector),
                headers={"authorization": f"Bearer {tenant.key}", **OCTETS},
            )  # fmt: skip
            assert response.status_code == 201, response.text
            version = response.json()["version"]
            named.versions[version] = vector
            await self._look_up(tenant, name)

    async def delete(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        named = tenant.adapters[name]
        with named.changing():
            response = await self._send(tenant, "DELETE", f"/v1/adapters/{name}")
            assert response.status_code in (200, 404), response.text
            await self._look_up(tenant, name)

    async def restore(self, tenant: Tenant) -> None:
        deleted = [name for name in NAMES if tenant.adapters[name].versions and not tenant.adapters[name].live]
        if not deleted:
            return
        name = self._random.choice(deleted)
        with tenant.adapters[name].changing():
            await self._send(tenant, "POST", f"/v1/adapters/{name}/restore")
            await self._look_up(tenant, name)

    async def _look_up(self, tenant: Tenant, name: str) -> None:
        """What holds after a write, which other clients may have written into. One at a time, so that the last one to
        be noted is the last one to be answered."""
        named = tenant.adapters[name]
        async with named.looking:
            listed = await self._send(tenant, "GET", f"/v1/adapters/{name}/versions?limit=100")
            found = await self._send(tenant, "GET", f"/v1/adapters/{name}/aliases/{ALIAS}")
            named.live = frozenset(item["version"] for item in listed.json().get("data", []))
            named.alias = int(*found.json()["versions"]) if found.status_code == 200 else None

    async def move_alias(self, tenant: Tenant) -> None:
        name = self._random.choice(NAMES)
        named = tenant.adapters[name]
        if not named.versions:
            return
        version = self._random.choice(list(named.versions))
        with named.changing():
            url = f"/v1/adapters/{name}/aliases/{ALIAS}"
            response = await self._send(tenant, "PUT", url, json={"version": version})
            assert response.status_code in (200, 201, 400, 404), response.text
            assert response.status_code < 400 or version not in named.live or named.begun > named.ended + 1
            await self._look_up(tenant, name)

    # Mistakes

    async def mistake(self, tenant: Tenant) -> None:
        chat = self._chat()
        wrong: dict[str, Any] = self._random.choice(
            (
                {"adapter": "nobody"}, {"adapter": {"vector": "AAAA"}}, {"adapter": {"vector": [1e39] * 13}},
                {"adapter": []}, {"adapter": "demo@999999"}, {"model": "nobody"}, {"temperature": -1}, {"n": 0},
                {"messages": []}, {"max_tokens": -1}, {"stop": ["\ud800"]},
                {"adapter": "demo", "model": "math"}, {"adaptor": "demo"}, {"priority": 1000},
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}},
                {"structured_outputs": {"regex": "("}}, {"logit_bias": {"999999999": 1}}, {"seed": 2**70},
                {"messages": [{"role": "user", "content": "word " * 3000}]},
            )
        )  # fmt: skip
        response = await self._post(tenant, "/v1/chat/completions", {**chat, **wrong})
        if not 400 <= response.status_code < 500 or not response.json()["error"]["message"]:
            self.forgiven.append(f"{wrong}: {response.status_code} {response.text[:200]}")

    async def strangers(self, tenant: Tenant) -> None:
        """Another tenant's adapter is not there, by whatever name."""
        other = self._random.choice([one for one in self.tenants if one is not tenant])
        response = await self._post(
            tenant, "/v1/chat/completions", {**self._chat(), "adapter": f"~{other.name}/{self._random.choice(NAMES)}"}
        )
        assert response.status_code == 404, response.text

    async def overflow(self, tenant: Tenant) -> None:
        """Numbers that overflow inside the model: refused or noise, and nobody else's."""
        vector = torch.full((13,), self._random.choice((1e4, 1e6, 3e38)))
        response = await self._post(tenant, "/v1/chat/completions", {**self._chat(), "adapter": inline(vector)})
        assert response.status_code in (200, 400), response.text
