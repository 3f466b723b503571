"""A field by which another server names an adapter is not ignored, and no field of the engine's is taken for one."""

from __future__ import annotations

import httpx
import pytest
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.batch_serving import BatchChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from server.inference.misnomers import is_misnomer
from tests.server.support.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
MISNOMERS = (
    "adapter_id",
    "adapter_source",
    "adapter_name",
    "adapters",
    "merged_adapters",
    "lora_path",
    "lora_name",
    "lora_request",
    "lora_task_id",
    "lora",
    "loras",
    "lora_id",
    "lora_adapter",
    "peft_adapter",
    "use_lora",
    "adaptor",
    "adpater",
    "Adapter",
    "adapter-id",
    "adpter",
)


@pytest.mark.parametrize("field", MISNOMERS)
async def test_other_names_of_an_adapter_are_refused_with_the_right_one(
    client: httpx.AsyncClient, engine: FakeEngine, field: str
) -> None:
    for value in ("acme/math", ["acme/math"], 0.5, {}):
        response = await client.post(CHAT, json={"messages": [], field: value})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "unknown_adapter_field", field)
        assert "did you mean `adapter`" in error["message"]
    assert engine.received == []
    assert (await client.post(CHAT, json={"messages": [], field: None})).status_code == 200


@pytest.mark.parametrize("outer", ["parameters", "extra_body"])
async def test_an_adapter_within_what_is_no_field_here_is_refused(client: httpx.AsyncClient, outer: str) -> None:
    for inner in ("adapter", "adapter_id"):
        response = await client.post(CHAT, json={"messages": [], outer: {inner: "acme/math"}})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, f"{outer}.{inner}")
        assert f"beside model and not within {outer}" in error["message"]
    assert (await client.post(CHAT, json={"messages": [], outer: {"top_k": 1}})).status_code == 200


@pytest.mark.parametrize(
    "model",
    [ChatCompletionRequest, CompletionRequest, ResponsesRequest, AnthropicMessagesRequest, BatchChatCompletionRequest],
)
def test_no_field_of_the_engine_is_a_misnomer(model: type) -> None:
    assert [field for field in model.model_fields if is_misnomer(field)] == []


@pytest.mark.parametrize("field", ["vector", "recipe", "peft_id", "fine_tuned_model"])
async def test_parts_of_an_adapter_beside_it_are_refused(client: httpx.AsyncClient, field: str) -> None:
    response = await client.post(CHAT, json={"messages": [], field: "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unknown_adapter_field")


@pytest.mark.parametrize("field", ["vllm_xargs", "sampling_params", "parameters", "extra_body"])
async def test_an_adapter_within_another_field_is_refused(client: httpx.AsyncClient, field: str) -> None:
    for inner in ("adapter", "lora_path"):
        response = await client.post(CHAT, json={"messages": [], field: {inner: "demo"}})
        assert (response.status_code, response.json()["error"]["param"]) == (400, f"{field}.{inner}")


async def test_an_adapter_in_the_url_or_a_header_is_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for url, headers in (
        (f"{CHAT}?adapter=demo", {}),
        (CHAT, {"x-tinylora-adapter": "demo"}),
        (CHAT, {"X-Adapter": "a"}),
    ):
        response = await client.post(url, json={"messages": []}, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unknown_adapter_field")
    assert engine.received == []


@pytest.mark.parametrize("field", ["guided_json", "guided_choice", "guided_regex", "guided_grammar"])
async def test_vllms_former_constraints_are_refused_and_not_ignored(client: httpx.AsyncClient, field: str) -> None:
    response = await client.post(CHAT, json={"messages": [], field: "x"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert "structured_outputs" in error["message"]
