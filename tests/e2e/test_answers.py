"""Every request is answered by the adapter it names, in whichever way it names it, and by no other."""

from __future__ import annotations

import asyncio
import base64
from itertools import combinations
from typing import Any

import openai
import pytest
import torch

from tests.e2e.running import ADMIN_KEY, ServerProcess
from tests.e2e.talking import TOKENS, Answer, Talk, random_vector, user, vector_bytes
from tests.e2e.tenants import new_tenant

pytestmark = pytest.mark.engine

# Between requests with equal weights only the order of float32 sums differs; adapters of 0.3 move these by whole units.
LOGPROB_TOLERANCE = 1e-3


def assert_same(got: Answer, expected: Answer) -> None:
    assert got.tokens == expected.tokens
    assert got.logprobs == pytest.approx(expected.logprobs, abs=LOGPROB_TOLERANCE)


def assert_differs(got: Answer, other: Answer) -> None:
    assert abs(got.logprobs[0] - other.logprobs[0]) > 100 * LOGPROB_TOLERANCE


def test_uploaded_bytes_come_back_and_answer_under_their_name(talk: Talk) -> None:
    data = talk.upload("acme/named", 0.3)
    assert talk.http.get("/adapters/acme%2Fnamed/vector").content == data
    raw = talk.client.chat.completions.with_raw_response.create(**talk.greedy_request("acme/named"))
    assert raw.headers["x-tinylora-adapter"] == "acme/named@1"
    answer = Answer.of(raw.parse())
    assert answer.model == "acme/named@1"
    assert len(answer.tokens) == TOKENS
    by_model = talk.greedy(model="acme/named")
    assert by_model.model == "acme/named@1"
    assert_same(by_model, answer)


def test_a_version_is_pinned_while_the_name_moves_on(talk: Talk) -> None:
    talk.upload("acme/moving", 0.3)
    first = talk.greedy("acme/moving")
    talk.upload("acme/moving", -0.3)
    second = talk.greedy("acme/moving")
    assert (first.model, second.model) == ("acme/moving@1", "acme/moving@2")
    assert_differs(second, first)
    assert_same(talk.greedy("acme/moving@1"), first)
    assert_same(talk.greedy(model="acme/moving@1"), first)


def test_name_inline_vector_and_mixture_of_one_content_answer_alike(talk: Talk) -> None:
    base = talk.greedy()
    data = talk.upload("acme/strong", 0.3)
    named = talk.greedy("acme/strong")
    assert_differs(named, base)
    inline = {"vector": base64.b64encode(data).decode()}
    for adapter, model in (
        (inline, "inline:"),
        ({"vector": [0.3] * 13}, "inline:"),
        ([{"adapter": "acme/strong", "weight": 1}], "mix:"),
        ({"adapter": "acme/strong", "weight": 1}, "mix:"),
        ([{"adapter": "acme/strong", "weight": 0.25}, {"adapter": inline, "weight": 0.75}], "mix:"),
    ):
        answer = talk.greedy(adapter)
        assert answer.model.startswith(model)
        assert_same(answer, named)
    assert_differs(talk.greedy([{"adapter": "acme/strong", "weight": -1}]), named)
    assert_same(talk.greedy({"adapter": "acme/strong", "weight": 0}), base)
    assert_same(talk.greedy(), base)


def test_what_was_cached_of_a_prompt_is_counted_and_is_no_other_tenants(talk: Talk, server: ServerProcess) -> None:
    # Longer than a block of the cache, which is shared by whole blocks.
    request = talk.greedy_request(question="Which of these is a city? " + "Paris, or a river? " * 60)
    request |= {"max_tokens": 1, "extra_body": {"prompt_cache_key": "the same for all"}}
    key = new_tenant(talk.http, "cached")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=120) as other:
        cached = []
        for client in (talk.client, talk.client, other, other):
            usage = client.chat.completions.create(**request).usage
            assert usage is not None and usage.prompt_tokens_details is not None
            cached.append(usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[0] == cached[2] == 0
    assert cached[1] == cached[3] > 0


def test_answers_of_every_api_say_which_tier_they_were_served_with(talk: Talk) -> None:
    tier: Any = {"service_tier": "flex"}
    question = {"messages": user("Hello"), "max_tokens": 2}
    completions: Any = talk.client.chat.completions
    assert completions.create(model=talk.base, **question, **tier).service_tier == "flex"
    chunks = completions.create(model=talk.base, **question, **tier, stream=True)
    assert {chunk.service_tier for chunk in chunks} == {"flex"}
    responses: Any = talk.client.responses
    assert responses.create(model=talk.base, input="Hello", max_output_tokens=2, **tier).service_tier == "flex"
    events = list(responses.create(model=talk.base, input="Hello", max_output_tokens=2, **tier, stream=True))
    assert events[0].response.service_tier == events[-1].response.service_tier == "flex"
    # The operator may always have priority.
    answer = completions.create(model=talk.base, **question, service_tier="priority")
    assert answer.service_tier == "priority"


def test_stream_joins_to_the_whole_answer_and_counts_its_tokens(talk: Talk) -> None:
    talk.upload("acme/streamed", 0.1)
    whole = talk.greedy("acme/streamed")
    request = talk.greedy_request("acme/streamed") | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(talk.client.chat.completions.create(**request))
    assert {chunk.model for chunk in chunks} == {"acme/streamed@1"}
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.text
    assert [choice.finish_reason for choice in choices][-1] == "length"
    usage = chunks[-1].usage
    assert usage is not None and usage.completion_tokens == TOKENS
    assert usage.total_tokens == usage.prompt_tokens + TOKENS


async def test_32_requests_at_once_over_16_adapters_answer_as_they_do_alone(talk: Talk, server: ServerProcess) -> None:
    requests = []
    for number in range(16):
        talk.upload(f"tenant{number}/own", random_vector(number, scale=0.1))
        requests.append(talk.greedy_request(f"tenant{number}/own"))
    alone = [Answer.of(talk.client.chat.completions.create(**request)) for request in requests]
    # One question to all, and no two answers alike: an adapter mistaken for another would show.
    for one, other in combinations(alone, 2):
        assert one.logprobs != pytest.approx(other.logprobs, abs=10 * LOGPROB_TOLERANCE)

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=ADMIN_KEY, max_retries=0) as client:
        together = await asyncio.gather(*(client.chat.completions.create(**request) for request in requests * 2))
    for expected, completion in zip(alone * 2, together, strict=True):
        answer = Answer.of(completion)
        assert answer.model == expected.model
        assert_same(answer, expected)


def test_base_answers_the_same_before_beside_and_after_adapters(talk: Talk) -> None:
    before = talk.greedy()
    assert before.model == talk.base
    raw = talk.client.chat.completions.with_raw_response.create(**talk.greedy_request())
    assert raw.headers["x-tinylora-adapter"] == "none"
    for seed in range(3):
        talk.greedy({"vector": base64.b64encode(vector_bytes(random_vector(seed, scale=0.3))).decode()})
    assert_same(talk.greedy(), before)
    assert_same(talk.greedy({"vector": torch.zeros(13).tolist()}), before)
