"""A field that another API, or another server, has for something is refused, with the name that this route has."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest, ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from server.core.errors import BadRequest
from server.core.paths import RESPONSES_PATH
from server.inference.moved_fields import CHAT, CHATS, COMPLETIONS, MEANINGS, MESSAGES, check_moved
from tests.server.support.fake_engine import FakeEngine

SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
MODELS: dict[str, Any] = {
    CHAT: ChatCompletionRequest,
    CHATS: BatchChatCompletionRequest,
    COMPLETIONS: CompletionRequest,
    RESPONSES_PATH: ResponsesRequest,
    MESSAGES: AnthropicMessagesRequest,
}


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        (RESPONSES_PATH, {"max_tokens": 3}, "max_tokens is 3, .* it is max_output_tokens there"),
        (RESPONSES_PATH, {"max_completion_tokens": 3}, "max_output_tokens"),
        (RESPONSES_PATH, {"response_format": {"type": "json_object"}}, "it is text.format or structured_outputs"),
        (RESPONSES_PATH, {"response_format": SCHEMA, "text": {"verbosity": "low"}}, "it is text.format"),
        (RESPONSES_PATH, {"system": "Be brief."}, "it is instructions"),
        (CHAT, {"max_output_tokens": 3}, "it is max_completion_tokens or max_tokens"),
        (CHAT, {"max_new_tokens": 3}, "it is max_completion_tokens"),
        (CHAT, {"instructions": "Be brief."}, "a message of the role system"),
        (CHAT, {"stop_sequences": ["x"]}, "it is stop there"),
        (CHAT, {"regex": "a|b"}, "it is response_format or structured_outputs"),
        (CHAT, {"system": "Be brief.", "messages": [{"role": "user", "content": "x"}]}, "a message of the role system"),
        (RESPONSES_PATH, {"response_format": SCHEMA, "text": {"format": {"type": "text"}}}, "it is text.format"),
        (COMPLETIONS, {"max_completion_tokens": 3}, "it is max_tokens"),
        (COMPLETIONS, {"n_predict": 3}, "it is max_tokens"),
        (MESSAGES, {"output_format": SCHEMA}, "it is output_config.format"),
        (MESSAGES, {"response_format": SCHEMA, "output_config": {"effort": "low"}}, "it is output_config.format"),
        (MESSAGES, {"structured_outputs": {"regex": "a|b"}}, "it is output_config.format"),
        (MESSAGES, {"stop": "x"}, "it is stop_sequences"),
    ],
)
def test_the_name_of_another_api_is_refused_with_the_one_here(path: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told) as refused:
        check_moved(fields, path)
    assert (refused.value.param, refused.value.code) == (next(iter(fields)), "unsupported_parameter")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (COMPLETIONS, {"max_tokens": 3, "max_completion_tokens": 3}),  # as benchmarks send it
        (CHAT, {"max_tokens": 3, "max_output_tokens": 3, "max_new_tokens": None}),
        (RESPONSES_PATH, {"max_output_tokens": 3, "max_tokens": 3, "response_format": {"type": "text"}}),
        (RESPONSES_PATH, {"text": {"format": SCHEMA}, "response_format": SCHEMA}),
        (MESSAGES, {"max_tokens": 3, "max_completion_tokens": 3, "stop": [], "system": "Be brief."}),
        (CHAT, {"system": "Be brief.", "messages": [{"role": "system", "content": "Be brief."}]}),
        (CHATS, {"system": "Be brief.", "messages": [[{"role": "system", "content": "Be brief."}]]}),
        ("/tokenize", {"max_output_tokens": 3}),
    ],
)
def test_what_is_said_by_the_routes_own_name_too_is_served(path: str, fields: dict[str, Any]) -> None:
    check_moved(fields, path)


def test_the_official_client_is_told(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    with pytest.raises(openai.BadRequestError, match="it is max_output_tokens there") as refused:
        openai_client.responses.create(model="", input="one", extra_body={"max_tokens": 3})
    assert (refused.value.param, engine.asked) == ("max_tokens", [])


@pytest.mark.parametrize("path", MODELS)
def test_vllm_reads_the_names_here_and_no_other(path: str) -> None:
    read = MODELS[path].model_fields.keys()
    for meaning in MEANINGS:
        own = {name.partition(".")[0] for name in meaning.own.get(path, ()) if " " not in name}
        assert own <= read, f"{path} does not read all of {sorted(own)}"
        others = {*meaning.names} - own if path in meaning.own else set()
        assert not others & read, f"vLLM has come to read {sorted(others & read)} at {path}: take them out of the list"
