"""Every route that generates answers with the adapter of its request, and two tenants' adapters of one name are two."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.running import AS_ADMIN, ServerProcess
from tests.e2e.talking import QUESTION, Talk, random_vector, user, vector_bytes
from tests.e2e.tenants import new_tenant

pytestmark = pytest.mark.engine

SAMPLING = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
CHAT = {"messages": user(QUESTION), **SAMPLING, "logprobs": True}
# A request to each route, and where its answer has numbers or words that an adapter moves.
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": {**CHAT, "messages": [user(QUESTION), user("And of Italy?")]},
    "/v1/completions": {"prompt": QUESTION, **SAMPLING, "logprobs": 1},
    "/v1/responses": {
        "input": QUESTION, "temperature": 0, "max_output_tokens": 16, "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
    },
    "/v1/messages": {"messages": user(QUESTION), "max_tokens": 16, "temperature": 0},
    "/inference/v1/generate": {
        "token_ids": [5, 7, 11, 13], "sampling_params": {"temperature": 0, "max_tokens": 4, "logprobs": 1},
    },
    "/generative_scoring": {"query": QUESTION, "items": ["Paris", "Rome"], "label_token_ids": [20, 21]},
    "/invocations": CHAT,
}  # fmt: skip
# What differs between two answers to the same request.
PASSING = {"id", "created", "created_at", "completed_at", "model", "request_id", "usage", "metrics"}


def content(answer: Any) -> Any:
    """What the model computed, of a parsed answer."""
    if isinstance(answer, dict):
        return {key: content(value) for key, value in answer.items() if key not in PASSING}
    if isinstance(answer, list):
        return [content(item) for item in answer]
    return round(answer, 2) if isinstance(answer, float) else answer


@pytest.mark.parametrize("path", ROUTES)
def test_answer_moves_with_the_adapter_and_says_which(talk: Talk, path: str) -> None:
    name = f"routes{path}"
    talk.upload(name, 0.3)

    def ask(**more: Any) -> httpx.Response:
        response = talk.http.post(path, json={"model": talk.base, **ROUTES[path], **more})
        assert response.status_code == 200, response.text
        return response

    base, adapted, again = ask(), ask(adapter=name), ask()
    assert content(base.json()) == content(again.json())
    assert content(adapted.json()) != content(base.json())
    assert adapted.headers["x-tinylora-adapter"] == f"{name}@1"
    by_model = ask(model=name)
    assert content(by_model.json()) == content(adapted.json())
    for response in (adapted, by_model):
        assert response.json().get("model", f"{name}@1") == f"{name}@1"


def test_sagemakers_header_names_an_adapter(talk: Talk) -> None:
    talk.upload("routes/of-a-header", 0.3)
    body = {"model": talk.base, **CHAT}
    header = {"X-Amzn-SageMaker-Adapter-Identifier": "routes/of-a-header@1"}
    expected = talk.http.post("/v1/chat/completions", json={**body, "adapter": "routes/of-a-header@1"})
    answer = talk.http.post("/invocations", json=body, headers=header)
    assert answer.status_code == 200, answer.text
    assert content(answer.json()) == content(expected.json())
    assert answer.json()["model"] == answer.headers["x-tinylora-adapter"] == "routes/of-a-header@1"
    missing = talk.http.post("/invocations", json=body, headers={**header, next(iter(header)): "routes/nobody"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "adapter_not_found")
    both = talk.http.post("/invocations", json={**body, "adapter": "routes/other"}, headers=header)
    assert (both.status_code, both.json()["error"]["code"]) == (400, "adapter_conflict")


async def test_adapters_of_one_name_of_two_tenants_run_in_one_batch(server: ServerProcess, talk: Talk) -> None:
    """The same name, version and question; everything else differs."""
    keys = [new_tenant(talk.http, f"same-name-{number}") for number in range(3)]
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:

        async def ask(key: str, tokens: int) -> list[float]:
            body = {**talk.greedy_request("demo"), "max_tokens": tokens}
            body |= body.pop("extra_body")
            answer = await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == answer.headers["x-tinylora-adapter"] == "demo@1"
            return [item["logprob"] for item in answer.json()["choices"][0]["logprobs"]["content"]]

        for number, key in enumerate(keys):
            stored = await http.post(
                "/adapters?name=demo",
                content=vector_bytes(random_vector(number, scale=0.2)),
                headers={"authorization": f"Bearer {key}", "content-type": "application/octet-stream"},
            )
            assert stored.status_code == 201, stored.text
        alone = [await ask(key, 8) for key in keys]
        assert abs(alone[0][0] - alone[1][0]) > 0.01 and abs(alone[1][0] - alone[2][0]) > 0.01
        together = await asyncio.gather(*(ask(key, 8) for key in keys * 3))
        for expected, got in zip(alone * 3, together, strict=True):
            assert got == pytest.approx(expected, abs=1e-3)
        assert (await http.get("/ready", headers=AS_ADMIN)).status_code == 200
