"""What the types of the official clients allow, the engine's request models take, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import httpx
import pytest
from anthropic.types import message_create_params as messages
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as responses
from pydantic import BaseModel, ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.exceptions import VLLMValidationError

from server.core.principal import OPEN_PRINCIPAL
from server.inference.refused_values import leave_out_refused
from server.inference.service_tier import ServiceTiers
from server.limits.quotas import Quotas
from tests.server.support.fake_engine import FakeEngine

USER = {"messages": [{"role": "user", "content": "x"}]}
APIS: dict[type[BaseModel], tuple[Any, dict[str, object]]] = {
    ChatCompletionRequest: (chat.CompletionCreateParamsNonStreaming, USER),
    CompletionRequest: (completions.CompletionCreateParamsNonStreaming, {"prompt": "x"}),
    ResponsesRequest: (responses.ResponseCreateParamsNonStreaming, {"input": "x"}),
    AnthropicMessagesRequest: (messages.MessageCreateParamsNonStreaming, {"max_tokens": 5, **USER}),
}
SETTLED = ServiceTiers(Quotas())
# Of these only a whole makes sense: a prompt that is null, a choice among no tools.
RIGHTLY_REFUSED = {("prompt", None), ("tool_choice", "auto"), ("tool_choice", "required")}


def values_of(kind: Any) -> Iterator[object]:
    """The single values that a type names: words, booleans, null; and objects of one such field."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif kind is bool:
        yield from (True, False)
    elif kind is type(None):
        yield None
    elif is_typeddict(kind) and not kind.__required_keys__:
        for field, inner in get_type_hints(kind).items():
            yield from ({field: value} for value in values_of(inner))
    elif (get_origin(kind) is not None and not isinstance(get_origin(kind), type)) or "Union" in str(get_origin(kind)):
        for part in get_args(kind):
            yield from values_of(part)


@pytest.mark.parametrize("model", APIS)
async def test_every_value_that_a_client_may_send_is_taken(model: type[BaseModel]) -> None:
    params, least = APIS[model]
    refused, tried = [], 0
    for field, kind in get_type_hints(params).items():
        for value in values_of(kind):
            payload = {"model": "m", **least, field: value}
            leave_out_refused(payload)
            await SETTLED.settle(payload, OPEN_PRINCIPAL)
            tried += 1
            try:
                model.model_validate(payload)
            except (ValidationError, VLLMValidationError):
                if isinstance(value, dict) or (field, value) not in RIGHTLY_REFUSED:
                    refused.append((field, value))
    assert tried > 10
    assert refused == []


async def test_null_is_left_out_where_it_is_the_default(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.post("/v1/chat/completions", json={"messages": [], "n": None})).status_code == 200
    assert "n" not in (engine.received[-1].model_extra or {})
    await client.post("/v1/chat/completions", json={"messages": [], "n": 2})
    assert (engine.received[-1].model_extra or {})["n"] == 2
