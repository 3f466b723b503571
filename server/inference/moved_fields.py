"""Fields that have another name at this route than at the API, or server, from which a request was taken: refused, with
the name here.

vLLM ignores them, and the answer would be longer than was asked for, or of another form, without a word. A request that
has the route's own field as well is served: some programs send several names of one thing.

    max_new_tokens, n_predict              TGI, llama.cpp
    grammar, json_schema, regex, ebnf      llama.cpp, SGLang
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH

CHAT, CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions"
MESSAGES = "/v1/messages"
# With which a field asks for nothing.
_NOTHING: tuple[object, ...] = (None, "", [], {}, {"type": "text"}, -1)


@dataclass(frozen=True, slots=True)
class Meaning:
    """Names of one thing, and what it is called by each route that has it."""

    names: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]]


_LIMITS, _FORMATS = ("max_completion_tokens", "max_tokens"), ("response_format", "structured_outputs")
_SYSTEM = ("a message of the role system",)
MEANINGS = (
    Meaning(
        ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"),
        {CHAT: _LIMITS, CHATS: _LIMITS, COMPLETIONS: ("max_tokens",), RESPONSES_PATH: ("max_output_tokens",)},
    ),
    Meaning(
        ("stop", "stop_sequences"),
        {**dict.fromkeys((CHAT, CHATS, COMPLETIONS, RESPONSES_PATH), ("stop",)), MESSAGES: ("stop_sequences",)},
    ),
    Meaning(
        ("response_format", "output_format", "structured_outputs", "json_schema", "grammar", "regex", "ebnf"),
        {
            **dict.fromkeys((CHAT, CHATS, COMPLETIONS), _FORMATS),
            RESPONSES_PATH: ("text.format", "structured_outputs"),
            MESSAGES: ("output_config.format",),
        },
    ),
    Meaning(
        ("system", "instructions"),
        {CHAT: _SYSTEM, CHATS: _SYSTEM, RESPONSES_PATH: ("instructions",), MESSAGES: ("system",)},
    ),
)


def check_moved(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for the first field of `payload`, the body of a request to `path`, that is called otherwise there."""
    for meaning in MEANINGS:
        own = meaning.own.get(path, ())
        for name in meaning.names if own else ():
            value = payload.get(name)
            if value not in _NOTHING and name not in own and not any(_is_said(payload, other) for other in own):
                raise BadRequest(
                    f"{name} is {quoted(value)}, and {path} does not read it: it is {' or '.join(own)} there.",
                    param=name,
                    code="unsupported_parameter",
                )


def _is_said(payload: Mapping[str, object], name: str) -> bool:
    """Whether a field of a route, one of `Meaning.own`, asks for something."""
    if name in _SYSTEM:
        messages: Any = payload.get("messages")
        conversation = messages if isinstance(messages, list) else []
        # Of a batch of chats each is a list of its own.
        flat = chain.from_iterable(one if isinstance(one, list) else (one,) for one in conversation)
        return any(isinstance(one, Mapping) and one.get("role") in ("system", "developer") for one in flat)
    value: Any = payload
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value not in _NOTHING
