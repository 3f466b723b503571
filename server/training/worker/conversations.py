"""Completions of rows that have tools, or whose job has an environment: turns, until one of them ends the conversation.

    prompt -> model's turn -> environment -> its messages -> model's turn -> ... -> done, or a limit

The turns of one conversation are one completion: their tokens are those that were sampled, and behind each the
environment's (chat_turns.py), which are marked, because nothing learns from them. All of them together have the limit
of a completion, `max_completion_tokens`, so that a step is as large as without an environment.

Without an environment there is one turn, whose tool calls and reasoning are read for the grader. A row without tools,
in a job without environment, of a model that does not reason, is sampled and nothing else.

Everything random depends on the request's seed, and the ids of conversations and tool calls on what asked for them, so
that a step that is taken again is the same.

A conversation whose environment fails has no reward, as a completion whose grader fails: it counts in no mean of its
group, because an outage must not look like a bad turn. One whose next turn could not be sampled is not in its group.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.limits.fair_semaphore import Slots
from server.training.graders.gather import gather_or_cancel
from server.training.graders.grade import GraderError
from server.training.worker.chat_turns import ChatTurns, TemplateRefuses
from server.training.worker.conversation import Conversation, Message
from server.training.worker.dataset import Row
from server.training.worker.environment import Environment, EnvironmentAnswer
from server.training.worker.http_retry import GatewayRefused
from server.training.worker.job_data import Example
from server.training.worker.rollout import Completion, Group, RolloutClient, RolloutRequest, seed_of

# Of letters and digits: Mistral's templates take no other id of a call.
_CALL_ID_CHARS = 9


@dataclass(slots=True)
class _Said:
    """A conversation so far. `room`: tokens that are left of its limit."""

    id: str
    room: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def add_turn(self, turn: Completion, message: Message) -> None:
        self._add(turn.tokens, turn.logprobs, True)
        self.messages.append(message)

    def add_answer(self, tokens: list[int], messages: list[dict[str, Any]]) -> None:
        self._add(tokens, [math.nan] * len(tokens), False)
        self.messages += messages

    def _add(self, tokens: Any, logprobs: Any, is_sampled: bool) -> None:
        self.tokens += tokens
        self.logprobs += logprobs
        self.sampled += [is_sampled] * len(tokens)
        self.room -= len(tokens)

    def completion(self, last: Completion, finished: bool, **ended: Any) -> Completion:
        conversation = Conversation(tuple(self.messages), tuple(self.sampled), **ended)
        return Completion(tuple(self.tokens), tuple(self.logprobs), last.text, finished, conversation)


@dataclass(frozen=True, slots=True)
class Conversations:
    """Samples for one job. `semaphore` bounds how many environments are asked at once.

    reasoning: whether the engine takes what the model thinks out of messages. kwargs: what the chat template is given
    beside messages and tools.
    """

    rollouts: RolloutClient
    turns: ChatTurns | None
    environment: Environment | None
    semaphore: Slots
    reasoning: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    async def sample(self, request: RolloutRequest, example: Example) -> Group:
        """The completions of the prompt of `example`, and why some are missing. Raises as `RolloutClient.sample`."""
        group = await self.rollouts.sample(request)
        if self.environment is None and not self._is_read(example):
            return group
        played = await gather_or_cancel(
            self._play(request, example, index, first) for index, first in enumerate(group.completions)
        )
        whole = tuple(one for one in played if isinstance(one, Completion))
        lost = next((one for one in played if isinstance(one, Group)), group)
        return replace(lost, prompt=request.prompt, completions=whole)

    async def _play(
        self, request: RolloutRequest, example: Example, index: int, turn: Completion
    ) -> Completion | Group:
        """The conversation number `index` of a prompt, from its first turn on, or the group of a turn that failed."""
        said = _Said(_id_of(request, index), request.sampling.max_tokens)
        number = 1
        while True:
            message = await self._message(turn, example, seed_of(request.seed, "calls", number, index))
            said.add_turn(turn, message)
            if self.environment is None:
                return said.completion(turn, turn.finished)
            left = self.environment.max_turns - number if turn.finished and said.room > 0 else 0
            try:
                answer = await self._ask(request, example, said, number, left)
                if answer.done or not left:
                    return said.completion(turn, turn.finished, is_done=answer.done, reward=answer.reward)
                behind = await self._tokens_behind(example, answer.messages, turn.tokens[-1])
            except GraderError as failure:
                return said.completion(turn, turn.finished, failure=failure)
            if len(behind) >= said.room:
                return said.completion(turn, False)
            said.add_answer(behind, answer.messages)
            number += 1
            next_turn = await self._next_turn(request, said, seed_of(request.seed, "turn", number, index))
            if not next_turn.completions:
                return next_turn
            [turn] = next_turn.completions

    async def _message(self, turn: Completion, example: Example, seed: int) -> Message:
        """The turn as a message; where the row has tools, or the model thinks, as the engine reads it."""
        tokens = turn.tokens[:-1] if turn.finished else turn.tokens
        if not self._is_read(example) or not tokens:
            return {"role": "assistant", "content": turn.text}
        try:
            message = await self.rollouts.message(tokens, example.tools, self.kwargs)
        except GatewayRefused as error:
            if error.status != 400:
                raise
            # Something like a call, that the engine's parser fails on.
            message = {"role": "assistant", "content": turn.text}
        calls = message.get("tool_calls") or []
        # The engine draws ids at random, and some templates write them.
        ids = [_digest(f"{seed}/{place}")[:_CALL_ID_CHARS] for place in range(len(calls))]
        named = [{**call, "id": call_id} for call, call_id in zip(calls, ids, strict=True)]
        return {**message, **({"tool_calls": named} if named else {}), "content": message.get("content")}

    def _is_read(self, example: Example) -> bool:
        """Whether the engine says which part of a turn is its text."""
        return self.reasoning or bool(example.tools)

    async def _ask(
        self, request: RolloutRequest, example: Example, said: _Said, number: int, left: int
    ) -> EnvironmentAnswer:
        assert self.environment is not None
        asked: Mapping[str, Any] = {
            "id": said.id,
            "seed": request.seed % 2**31,
            "turn": number,
            "turns_left": left,
            "item": dict(example.item),
            "tools": list(example.tools),
            "messages": [*example.messages, *said.messages],
        }
        calls = [call["id"] for call in said.messages[-1].get("tool_calls") or ()]
        async with self.semaphore.slot(request.tenant, request.job):
            return await self.environment.answer(asked, calls)

    async def _tokens_behind(self, example: Example, messages: list[dict[str, Any]], end: int) -> list[int]:
        assert self.turns is not None and self.environment is not None
        row = Row(example.line, example.messages, example.item, example.tools)
        try:
            return await asyncio.to_thread(self.turns.tokens_behind, row, messages, end)
        except TemplateRefuses as error:
            raise self.environment.failed("environment_parse_error", str(error)) from error

    async def _next_turn(self, request: RolloutRequest, said: _Said, seed: int) -> Group:
        return await self.rollouts.sample(
            replace(
                request,
                prompt=[*request.prompt, *said.tokens],
                count=1,
                sampling=replace(request.sampling, max_tokens=said.room),
                seed=seed,
            )
        )


def _id_of(request: RolloutRequest, index: int) -> str:
    """The same whenever the same vector is sampled with the same seed for the same job."""
    vector = "" if request.adapter is None else request.adapter.data.hex()
    return f"conv_{_digest(f'{request.job}/{request.seed}/{index}/{vector}')[:32]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
