"""vLLM's beam search, whose requests to the engine have no priority and are counted once a step, is refused."""

from __future__ import annotations

import openai
import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from server.inference.beam_search import FIELD
from tests.server.support.fake_engine import FakeEngine


@pytest.mark.parametrize("asked", [True, 1, "true"])
def test_the_official_client_is_told_what_to_do_instead(
    openai_client: openai.OpenAI, engine: FakeEngine, asked: object
) -> None:
    extra = {FIELD: asked}
    with pytest.raises(openai.BadRequestError, match="beam search is not served: leave it out") as chat:
        openai_client.chat.completions.create(model="", messages=[], n=4, extra_body=extra)
    with pytest.raises(openai.BadRequestError) as completion:
        openai_client.completions.create(model="", prompt="x", n=4, extra_body=extra)
    for caught in (chat, completion):
        assert (caught.value.param, caught.value.code) == (FIELD, "unsupported_parameter")
    assert engine.heard == []


@pytest.mark.parametrize("asked", [False, None])
def test_requests_that_say_they_want_none_are_served(
    openai_client: openai.OpenAI, engine: FakeEngine, asked: object
) -> None:
    openai_client.chat.completions.create(model="", messages=[], extra_body={FIELD: asked})
    assert len(engine.heard) == 1


def test_vllm_still_calls_it_so() -> None:
    for model in (ChatCompletionRequest, CompletionRequest):
        assert FIELD in model.model_fields, f"{model.__name__} has no {FIELD}: find how beam search is asked for now"
