"""Fields that ask for another answer than this server can give are refused, and vLLM would ignore them."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest, ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from server.inference.unserved_fields import UNSERVED
from tests.server.support.fake_engine import FakeEngine

USER: Any = [{"role": "user", "content": "one"}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"functions": [{"name": "f", "parameters": {"type": "object"}}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"extra_body": {"logits_processors": ["a.b"]}}, "logits_processors"),
    ],
)
def test_the_official_client_is_told_which(
    openai_client: openai.OpenAI, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{param} is an? .*, and ") as refused:
        openai_client.chat.completions.create(model="", messages=USER, **fields)
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")
    assert engine.heard == []


def test_responses_that_are_to_be_moderated_are_refused(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    extra = {"moderation": {"model": "omni-moderation-latest"}}
    with pytest.raises(openai.BadRequestError, match="moderates nothing"):
        openai_client.responses.create(model="", input="one", extra_body=extra)
    assert engine.asked == []


@pytest.mark.parametrize(("n", "best_of"), [(None, 3), (2, 3), (2, 1)])
def test_answers_are_not_ranked(openai_client: openai.OpenAI, n: int | None, best_of: int) -> None:
    with pytest.raises(openai.BadRequestError, match="ranks no answers") as refused:
        openai_client.completions.create(model="", prompt="one", n=n, best_of=best_of)
    assert (refused.value.param, refused.value.code) == ("best_of", "unsupported_parameter")


@pytest.mark.parametrize(("n", "best_of"), [(None, 1), (1, 1), (2, 2), (2, None)])
def test_the_best_of_as_many_as_are_asked_for_are_all(
    openai_client: openai.OpenAI, n: int | None, best_of: int | None
) -> None:
    answer = openai_client.completions.with_raw_response.create(model="", prompt="one", n=n, best_of=best_of)
    assert answer.status_code == 200


async def test_chats_in_sagemakers_words_are_chats(client: httpx.AsyncClient) -> None:
    body = {"messages": USER, "functions": [{"name": "f", "parameters": {"type": "object"}}]}
    answer = await client.post("/invocations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "functions")


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": ["text"], "audio": None},
        {"modalities": None, "functions": [], "function_call": "none"},
        {"prediction": {"type": "content", "content": "one"}, "verbosity": "low"},
    ],
)
def test_hints_and_what_asks_for_nothing_are_served(
    openai_client: openai.OpenAI, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    assert openai_client.chat.completions.create(model="", messages=USER, **fields).choices
    assert len(engine.heard) == 1


@pytest.mark.parametrize(
    "model", [ChatCompletionRequest, BatchChatCompletionRequest, CompletionRequest, ResponsesRequest]
)
def test_vllm_still_has_none_of_them(model: Any) -> None:
    served = UNSERVED.keys() & model.model_fields.keys()
    assert not served, f"vLLM has come to read {sorted(served)}: take them out of the list"
