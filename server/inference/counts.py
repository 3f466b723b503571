"""How many fields, messages, tools and stop texts a request to the engine may have, and how long a repetition it may
look for: more than real ones do.

Each of them costs time within the event loop, here or in the engine, in which every other request waits. What else a
body may hold is bounded by its values (core/json_values.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH, is_below
from server.inference.misnomers import NESTED

# The engine's largest request model has about 70.
MAX_FIELDS = 256
# The engine reads one in a twentieth of a millisecond.
MAX_MESSAGES = 10_000
# Of all messages together.
MAX_PARTS = 10_000
# OpenAI takes 128.
MAX_TOOLS = 1000
# The engine looks for each of them at every token. OpenAI takes 4.
MAX_STOPS = 256
# The engine's scheduler compares so many tokens with those before them, at every token, for as many sizes.
MAX_REPETITION = 256


def check_counts(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for too many fields, in the body or in an object of parameters, or a list that is too long."""
    for name, fields in ((None, payload), *((name, payload.get(name)) for name in NESTED)):
        if isinstance(fields, Mapping) and len(fields) > MAX_FIELDS:
            raise BadRequest(
                f"{name or 'The body'} has {len(fields)} fields, expected at most {MAX_FIELDS}.",
                param=name,
                code="too_many_fields",
            )
    parameters = payload.get("sampling_params")
    conversation = "input" if is_below(path, (RESPONSES_PATH,)) else "messages"
    for name, items, most in (
        (conversation, payload.get(conversation), MAX_MESSAGES),
        ("tools", payload.get("tools"), MAX_TOOLS),
        ("stop", payload.get("stop"), MAX_STOPS),
        ("stop_sequences", payload.get("stop_sequences"), MAX_STOPS),
        ("sampling_params.stop", parameters.get("stop") if isinstance(parameters, Mapping) else None, MAX_STOPS),
    ):
        if isinstance(items, list) and len(items) > most:
            raise BadRequest(
                f"{name} is {quoted(items)}, expected a list of at most {most}.", param=name, code="list_too_long"
            )
    of_parameters = parameters.get("repetition_detection") if isinstance(parameters, Mapping) else None
    _check_repetition("repetition_detection", payload.get("repetition_detection"))
    _check_repetition("sampling_params.repetition_detection", of_parameters)
    parts = _parts(payload.get(conversation))
    if parts > MAX_PARTS:
        raise BadRequest(
            f"The messages in {conversation} have {parts} parts, expected at most {MAX_PARTS} in all of them.",
            param=conversation,
            code="list_too_long",
        )


def _check_repetition(name: str, sought: object) -> None:
    for field in ("max_pattern_size", "min_count"):
        size = sought.get(field) if isinstance(sought, Mapping) else None
        # As a text or a fraction, too, which the engine takes for the number.
        if isinstance(size, int | float | str) and not _is_at_most(size, MAX_REPETITION):
            raise BadRequest(
                f"{name}.{field} is {quoted(size)}, expected at most {MAX_REPETITION}.",
                param=f"{name}.{field}",
                code="invalid_value",
            )


def _is_at_most(number: float | str, most: int) -> bool:
    try:
        return float(number) <= most
    except (ValueError, OverflowError):
        return not isinstance(number, int)  # no number at all is the engine's to refuse


def _parts(messages: object) -> int:
    """Of all `messages` whose content is a list."""
    said = messages if isinstance(messages, list) else []
    contents = (message.get("content") for message in said if isinstance(message, Mapping))
    return sum(len(content) for content in contents if isinstance(content, list))
