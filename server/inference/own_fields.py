"""The rules of this server for fields of a request that runs the model, whatever the engine says to the rest."""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted
from server.core.metadata import metadata_of
from server.core.paths import RESPONSES_PATH
from server.inference.end_user import check_end_user
from server.inference.misnomers import NESTED, check_names
from server.inference.tools_check import check_hosted_tools, check_tools

# Whose `metadata` is OpenAI's; that of Anthropic's API is another.
_WITH_METADATA = ("/v1/chat/completions", "/v1/responses")
# The engine's largest request model has about 70.
MAX_FIELDS = 256
# The engine reads a message within the event loop, in a twentieth of a millisecond.
MAX_MESSAGES = 10_000


def check_own_fields(payload: Mapping[str, object], path: str, why_no_tools: str | None) -> None:
    """BadRequest for the first field of `payload` at fault. why_no_tools: of the model, None where it has tools."""
    _check_numbers(payload, "input" if path == RESPONSES_PATH else "messages")
    check_names(payload)
    check_hosted_tools(payload, path)
    check_tools(payload, why_no_tools)
    check_end_user(payload)
    if path in _WITH_METADATA:
        metadata_of(payload.get("metadata"))


def _check_numbers(payload: Mapping[str, object], conversation: str) -> None:
    """BadRequest for too many fields, in the body or in an object of parameters, or messages in `conversation`."""
    messages = payload.get(conversation)
    if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
        raise BadRequest(
            f"{conversation} is {quoted(messages)}, expected a list of at most {MAX_MESSAGES}.",
            param=conversation,
            code="too_many_messages",
        )
    for name, fields in ((None, payload), *((name, payload.get(name)) for name in NESTED)):
        if isinstance(fields, Mapping) and len(fields) > MAX_FIELDS:
            raise BadRequest(
                f"{name or 'The body'} has {len(fields)} fields, expected at most {MAX_FIELDS}.",
                param=name,
                code="too_many_fields",
            )
