"""What was said behind a prompt, as messages and as tokens: the model's turns, and an environment's between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.training.graders.grade import GraderError

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """messages: of the model and the environment in their order, in OpenAI's shape; the last one is the model's.

    sampled: for each token behind the prompt, whether the model sampled it.
    is_done: the environment ended it, and not a limit. reward: that it gave then, if any.
    failure: why the environment could not go on.
    """

    messages: Sequence[Message]
    sampled: Sequence[bool]
    is_done: bool = False
    reward: float | None = None
    failure: GraderError | None = None

    @property
    def turns(self) -> int:
        """How many turns the model had."""
        return sum(message["role"] == "assistant" for message in self.messages)
