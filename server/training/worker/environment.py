"""The tenant's environment, as a conversation asks it: behind every turn of the model, by one signed POST.

    {"id": "conv_...", "seed": 1234, "turn": 1, "turns_left": 3, "item": {...}, "tools": [...], "messages": [...]}

    {"messages": [{"role": "tool", "tool_call_id": "...", "content": "46"}]}      and the model has another turn
    {"done": true, "reward": 0.5}                                                 the end; the reward may be left out

`messages` has the whole conversation, the row's prompt first, and the last one is the model's turn. So an environment
need not remember anything, and a request that comes twice (after a lost answer, or a killed worker) does no harm.
`seed` is the same for all completions of a prompt: what the environment draws with it is the same for all whose rewards
are compared. With `turns_left` 0 there is no further turn, and messages would be read by nobody.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.core.error_responses import field_of, plain_message
from server.endpoints.endpoint_client import EndpointClient, EndpointFailed
from server.training.graders.environment import EnvironmentSpec
from server.training.graders.grade import MAX_SCORE, GraderError
from server.training.worker.chat_format import FormatError, check_message

ROLES = ("tool", "user")
_EXPECTED = 'expected {"messages": [...]} or {"done": true, "reward": number}'


class EnvironmentAnswer(BaseModel):
    """`messages` to go on with, or the end (`done`), with or without a reward."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    messages: list[dict[str, Any]] = Field(default=[], max_length=256)
    done: bool = False
    reward: Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE, allow_inf_nan=False)] | None = None


class Environment:
    """Asks the endpoint of `spec`."""

    def __init__(self, spec: EnvironmentSpec, client: EndpointClient, tenant: str = "") -> None:
        self.max_turns = spec.max_turns
        self._endpoint = spec.endpoint
        self._client, self._tenant = client, tenant

    async def answer(self, asked: Mapping[str, Any], calls: Collection[str]) -> EnvironmentAnswer:
        """What it answers to the request `asked`. calls: the ids of the model's tool calls in its last turn.

        GraderError when there is no answer, or one that is not in the format.
        """
        try:
            answer = await self._client.post(self._endpoint, asked, self._tenant)
        except EndpointFailed as error:
            raise self.failed("environment_server_error", str(error)) from error
        try:
            read = EnvironmentAnswer.model_validate(answer)
        except ValidationError as invalid:
            [first, *_] = invalid.errors(include_url=False)
            raise self._no_answer(f"{field_of(first) or 'the answer'}: {plain_message(first)}", answer) from invalid
        if read.done == bool(read.messages):
            raise self._no_answer("it has both" if read.done else "it has neither", answer)
        if read.reward is not None and not read.done:
            raise self._no_answer("a reward comes with the end", answer)
        try:
            json.dumps(read.messages, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise self._no_answer("it has half of a surrogate pair, which is no text", answer) from None
        for place, message in enumerate(read.messages):
            self._check(message, f"messages[{place}]", calls, answer)
        return read

    def failed(self, kind: Any, why: str) -> GraderError:
        """The error of a conversation that the environment could not go on with."""
        return GraderError(kind, f"environment {self._endpoint.url}: {why}")

    def _check(self, message: dict[str, Any], where: str, calls: Collection[str], answer: object) -> None:
        try:
            check_message(message, where)
            if message["role"] not in ROLES:
                raise FormatError(f"{where}.role is {message['role']!r}", f"one of {', '.join(ROLES)}")
            if message["role"] == "tool" and message["tool_call_id"] not in calls:
                known = f"the id of one of the calls in the last message: {', '.join(calls)}"
                none = "a message of role user, for the model's last message has no tool calls"
                raise FormatError(f"{where}.tool_call_id is {message['tool_call_id']!r:.80}", known if calls else none)
        except FormatError as error:
            raise self._no_answer(str(error), answer) from error

    def _no_answer(self, why: str, answer: object) -> GraderError:
        return self.failed("environment_parse_error", f"it answered {json.dumps(answer):.200}: {why}; {_EXPECTED}")
