"""How many tokens a chat template adds to what a request says: around a conversation, to each message, for tools.

It is measured once, when the engine starts, by having it write a few short conversations: templates are programs, and
some begin with instructions of their own, which are longer than many a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Tokens of a conversation (messages, tools) as the engine would be asked; None where it cannot be written.
PromptCount = Callable[[Sequence[Mapping[str, str]], Sequence[Mapping[str, Any]]], Awaitable[int | None]]

# Of one letter, which every tokenizer has as a token.
_LETTER = 1
_SYSTEM, _USER, _ASSISTANT = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))
_TOOL = {"type": "function", "function": {"name": "x", "parameters": {"type": "object", "properties": {}}}}
_TOOL_TOKENS = 24  # of its text


@dataclass(frozen=True, slots=True)
class TemplateCost:
    """Tokens. conversation: around all messages, with_system: the same where one of them is the system's; message:
    around each; tools: where there are any, apart from their text."""

    conversation: int = 0
    with_system: int = 0
    message: int = 0
    tools: int = 0


async def measure_template(count: PromptCount) -> TemplateCost:
    """The cost of the template by which `count` counts; nothing for what it cannot write."""
    one = await count([_USER], ())
    if one is None:
        return TemplateCost()
    three = await count([_USER, _ASSISTANT, _USER], ())
    message = 0 if three is None else max(0, (three - one) // 2 - _LETTER)
    conversation = max(0, one - message - _LETTER)
    system = await count([_SYSTEM, _USER], ())
    with_system = conversation if system is None else max(0, system - 2 * (message + _LETTER))
    tooled = await count([_USER], [_TOOL])
    return TemplateCost(
        conversation, with_system, message, 0 if tooled is None else max(0, tooled - one - _TOOL_TOKENS)
    )
