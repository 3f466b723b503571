"""What benchmarks/batches.py asks of its server, as the operator and as somebody who chats."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from benchmarks.batch_table import CHAT_TOKENS

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Site:
    """A server with an admin key."""

    url: str
    admin_key: str

    def new_key(self, tenant: str) -> str:
        """A key of a tenant, which is made where it is not there."""
        self._send("POST", "/v1/tenants", json={"name": tenant}, but=409)
        made = self._send("POST", f"/v1/tenants/{tenant}/keys", json={"name": "b", "scopes": ["infer", "train"]})
        return str(made.json()["key"])

    def disable(self, tenant: str, *, disabled: bool) -> None:
        """Have a tenant's batches wait, or go on."""
        self._send("PATCH", f"/v1/tenants/{tenant}", json={"disabled": disabled})

    def running_sequences(self) -> float:
        """How many sequences the engine has."""
        name = "tinylora_running_sequences "
        lines = self._send("GET", "/metrics").text.splitlines()
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    def booked(self, tenant: str, since: int) -> list[int]:
        """What is booked on a tenant since the day before: requests, tokens of prompts, of answers."""
        params: dict[str, Any] = {"start_time": since - DAY_S, "tenants": tenant}
        answer = self._send("GET", "/v1/usage", params=params).json()
        results = [result for bucket in answer["data"] for result in bucket["results"]]
        names = ("num_model_requests", "input_tokens", "output_tokens")
        return [sum(result[name] for result in results) for name in names]

    @contextmanager
    def lines(self, file_id: str, key: str) -> Iterator[Iterator[str]]:
        """The lines of a file of the tenant with this key, as they come."""
        with httpx.stream("GET", f"{self.url}/v1/files/{file_id}/content", headers=_bearer(key), timeout=600) as answer:
            answer.raise_for_status()
            yield answer.iter_lines()

    def _send(self, method: str, path: str, *, but: int | None = None, **sent: Any) -> httpx.Response:
        headers = _bearer(self.admin_key)
        # Without TLS there is nothing to verify, and reading certificates takes longer than the request.
        answer = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=120, verify=False, **sent)
        if answer.status_code != but:
            answer.raise_for_status()
        return answer


def chat_s(client: openai.OpenAI, model: str) -> float:
    """Seconds that a chat takes."""
    began = time.monotonic()
    client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Write about the sea, {began}."}],
        max_tokens=CHAT_TOKENS,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    return time.monotonic() - began


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
