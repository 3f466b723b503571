"""Conversations with an environment, sampled by an engine from a real model: what is sent, asked, and given back."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.limits.fair_semaphore import FairSemaphore
from server.training.graders.environment import EnvironmentSpec
from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.chat_turns import ChatTurns
from server.training.worker.conversation import Conversation
from server.training.worker.conversations import Conversations
from server.training.worker.dataset import Row
from server.training.worker.environment import Environment
from server.training.worker.forward import score
from server.training.worker.job_data import Example
from server.training.worker.packing import TokenSequence
from server.training.worker.rollout import Completion, Group, RolloutClient, RolloutRequest, Sampling
from tests.adapters.tiny_models import load_model
from tests.server.support.sampling_engine import END, TOOLS_TEMPLATE, tiny_tokenizer
from tests.server.support.site import IMPATIENT, Site, site
from tests.server.training.graders.endpoint_app import EndpointApp
from tests.server.training.graders.environment_app import SECRET, environment_app
from tests.server.training.worker.test_rollout import adapter_of

TOOLS = ({"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}},)
MESSAGES = ({"role": "user", "content": "w10"},)
ROOM = 24
# So that turns are short.
END_BIAS = 2.5
CHAT = ChatTokens(tiny_tokenizer(TOOLS_TEMPLATE), 64)


@asynccontextmanager
async def conversations(here: Site, app: EndpointApp | None, **fields: Any) -> AsyncIterator[Conversations]:
    here.engine.end_bias = END_BIAS
    client = EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)
    environment = None
    if app is not None:
        environment = Environment(EnvironmentSpec(url=app.url, secret=SECRET, **{"max_turns": 3, **fields}), client)
    rollouts = RolloutClient(here.http, retry_policy=IMPATIENT)
    yield Conversations(rollouts, ChatTurns(CHAT), environment, FairSemaphore(4))
    await client.close()


def asked_for(factors: Factors, tools: Any = (), count: int = 12, room: int = ROOM) -> tuple[RolloutRequest, Example]:
    row = Row(7, MESSAGES, {"answer": "w9"}, tools)
    prompt = CHAT.prompt(row, room)
    request = RolloutRequest(prompt, count, Sampling(room), adapter_of(factors), 5, "default", "ftjob-1")
    return request, Example(7, prompt, (), row.item, row.messages, tools)


def conversation_of(completion: Completion) -> Conversation:
    assert completion.conversation is not None
    return completion.conversation


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["plain", "tools"])
async def test_a_conversation_is_the_tokens_that_were_sampled_and_the_template_between_them(
    tmp_path: Path, path: Path, factors: Factors, tools: Any
) -> None:
    async with site(tmp_path, path, factors) as here:
        with environment_app() as app:
            async with conversations(here, app) as playing:
                request, example = asked_for(factors, tools)
                group = await playing.sample(request, example)
    assert {conversation_of(one).turns for one in group.completions} == {1, 2, 3}
    sent = {tuple(body["prompt"]): body for body in here.engine.received}
    for completion in group.completions:
        conversation = conversation_of(completion)
        assert len(completion.tokens) == len(completion.logprobs) == len(conversation.sampled) <= ROOM
        assert conversation.sampled[0] and conversation.sampled[-1]
        assert [math.isnan(value) for value in completion.logprobs] == [not one for one in conversation.sampled]
        # Where another turn begins, the engine was sent everything before it, as it was sampled.
        begins = [
            place
            for place in range(1, len(completion.tokens))
            if conversation.sampled[place - 1 : place + 1] == (False, True)
        ]
        assert len(begins) == conversation.turns - 1
        for begin in begins:
            body = sent[(*request.prompt, *completion.tokens[:begin])]
            assert (body["n"], body["max_tokens"]) == (1, ROOM - begin)
        # Between the turns stands what the template makes of the environment's messages.
        between = [token for token, own in zip(completion.tokens, conversation.sampled, strict=True) if not own]
        written = ""
        for message in conversation.messages:
            if message["role"] != "assistant":
                written += f"{message['role']} {message['content']} </s> "
            elif message is not conversation.messages[0]:
                written += "assistant "
        assert between == CHAT.tokens_of(written)

    # Training sees the probabilities with which the model's tokens were drawn.
    model = TrainableAdapters(load_model(path), factors)
    handle = model.add(adapter_of(factors))
    batch = [TokenSequence(handle, request.prompt, one.tokens, 1.0, one.sampled) for one in group.completions]
    tokens = score(model, batch)
    for row, completion in enumerate(group.completions):
        theirs = torch.tensor([value for value in completion.logprobs if not math.isnan(value)])
        torch.testing.assert_close(tokens.logprobs_BC[row][tokens.mask_BC[row]], theirs, atol=1e-4, rtol=0)


async def test_the_environment_is_asked_behind_every_turn_with_all_that_it_needs(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        with environment_app() as app:
            async with conversations(here, app) as playing:
                request, example = asked_for(factors, TOOLS)
                group = await playing.sample(request, example)
                first_time = list(app.bodies)
                again = await playing.sample(request, example)
                other, _ = asked_for(factors, TOOLS)
                await playing.sample(replace(other, adapter=None), example)
    webhooks = openai.OpenAI(api_key="k").webhooks
    for headers, body in app.requests:
        webhooks.verify_signature(body, headers, secret=SECRET)
    by_id: dict[str, list[dict[str, Any]]] = {}
    for body in first_time:
        by_id.setdefault(body["id"], []).append(body)
    assert len(by_id) == len(group.completions)
    assert len({body["seed"] for body in app.bodies}) == 1  # of all completions of a prompt, by any vector
    asked = sorted([body[-1]["messages"] for body in by_id.values()], key=str)
    assert asked == sorted([[*MESSAGES, *conversation_of(one).messages] for one in group.completions], key=str)
    for bodies in by_id.values():
        assert [body["turn"] for body in bodies] == list(range(1, len(bodies) + 1))
        assert [(body["item"], body["tools"]) for body in bodies] == [({"answer": "w9"}, list(TOOLS))] * len(bodies)
        assert all(0 <= body["turns_left"] <= 3 - body["turn"] for body in bodies)
    # The same step again is the same, to the ids of calls; another vector's conversations are others.
    assert again == group
    key = lambda body: (body["id"], body["turn"])  # noqa: E731
    second_time = app.bodies[len(first_time) : 2 * len(first_time)]
    assert sorted(second_time, key=key) == sorted(first_time, key=key)
    assert not by_id.keys() & {body["id"] for body in app.bodies[2 * len(first_time) :]}


async def test_limits_end_a_conversation(tmp_path: Path, path: Path, factors: Factors) -> None:
    def never_done(asked: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"messages": [{"role": "user", "content": "w11 w12 w13"}]}

    async with site(tmp_path, path, factors) as here:
        with environment_app(never_done) as app:
            async with conversations(here, app, max_turns=2) as playing:
                group = await playing.sample(*asked_for(factors))
                short = await playing.sample(*asked_for(factors, room=8))
    turns = [conversation_of(one) for one in group.completions]
    assert max(one.turns for one in turns) == 2
    assert not any(one.is_done or one.failure for one in turns)
    # Where the answer and another turn do not fit, there is none; and it counts as cut off.
    assert all(len(one.tokens) <= 8 for one in short.completions)
    ended = [one for one in short.completions if one.tokens[-1] == END and conversation_of(one).turns == 1]
    assert any(not one.finished for one in ended)
    assert all(conversation_of(one).sampled[-1] for one in short.completions)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((500, {}), "server", "the endpoint answered with status 500, in 4 attempts"),
        ((200, []), "parse", "Input should be a valid dictionary"),
        ((200, {}), "parse", 'it answered {}: it has neither; expected {"messages": [...]} or {"done": true'),
        ((200, {"done": True, "messages": [{"role": "user", "content": "w1"}]}), "parse", "it has both"),
        ((200, {"reward": 1.0, "messages": [{"role": "user", "content": "w1"}]}), "parse", "comes with the end"),
        ((200, {"done": True, "reward": "1"}), "parse", "reward: Input should be a valid number"),
        ((200, {"done": True, "score": 1}), "parse", "score: Extra inputs are not permitted"),
        ((200, {"messages": [{"role": "system", "content": "w1"}]}), "parse", "messages[0].role is 'system'"),
        ((200, {"messages": [{"role": "user"}]}), "parse", "messages[0].content is None"),
        ((200, {"messages": [{"role": "user", "content": "\ud800"}]}), "parse", "half of a surrogate pair"),
        ((200, b'{"done": true, "reward": NaN}'), "parse", "reward: Input should be a finite number"),
        ((200, {"done": True, "reward": True}), "parse", "reward: Input should be a valid number"),
        ((200, {"messages": [{"role": "tool", "tool_call_id": "x", "content": "w1"}]}), "parse", "has no tool calls"),
    ],
)
async def test_an_environment_that_fails_is_named_and_its_conversations_have_no_reward(
    tmp_path: Path, path: Path, factors: Factors, answer: Any, kind: str, said: str
) -> None:
    async with site(tmp_path, path, factors) as here:
        with environment_app(lambda _: answer) as app:
            async with conversations(here, app) as playing:
                group = await playing.sample(*asked_for(factors, count=2))
    for completion in group.completions:
        failure = conversation_of(completion).failure
        assert failure is not None and failure.kind == f"environment_{kind}_error"
        assert failure.message.startswith(f"environment {app.url}: ") and said in failure.message


async def test_a_turn_that_the_engines_parser_fails_on_is_a_text(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here, conversations(here, None) as playing:
        here.engine.is_readable = False
        group = await playing.sample(*asked_for(factors, TOOLS, count=3))
    assert [conversation_of(one).messages for one in group.completions] == [
        ({"role": "assistant", "content": one.text},) for one in group.completions
    ]


async def test_a_conversation_whose_next_turn_fails_costs_none_of_the_others(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    """Those that go on beside it, and have ended before it, were lost with it."""
    for refusals, lost in ((1, 1), (100, 12)):
        async with site(tmp_path / str(lost), path, factors) as here:
            planned = [[400] * refusals]

            def engine_fails(
                asked: dict[str, Any], here: Site = here, planned: list[list[int]] = planned
            ) -> tuple[int, Any]:
                if planned:
                    here.engine.refused = planned.pop()
                return 200, {"messages": [{"role": "user", "content": "w11"}]}

            with environment_app(engine_fails) as app:
                async with conversations(here, app) as playing:
                    group: Group = await playing.sample(*asked_for(factors))
        turns = [conversation_of(one).turns for one in group.completions]
        assert 12 - lost <= len(turns) < 12
        assert lost == 1 or set(turns) <= {1}  # what a limit had ended
        assert group.status == 400 and group.error is not None
        assert list(group.prompt) == asked_for(factors)[0].prompt


async def test_without_an_environment_the_calls_of_a_row_with_tools_are_read(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here, conversations(here, None) as playing:
        with_tools = await playing.sample(*asked_for(factors, TOOLS))
        plain = await playing.sample(*asked_for(factors))
    assert all(one.conversation is None for one in plain.completions)
    called = [conversation_of(one).messages[0] for one in with_tools.completions if len(one.text.split()) > 1]
    assert called and all(message["tool_calls"][0]["function"]["name"] == "say" for message in called)
    assert all(all(conversation_of(one).sampled) for one in with_tools.completions)
