"""How many fields, messages, tools, stop texts and ids of tokens a request to the engine may have, and how long its bad
words and a repetition that it looks for may be: more than real ones are.

Each of them costs time within the event loop, here or in the engine, in which every other request waits, or a place in
an array of the engine (engine/sampling_limits.py; what only the engine can count is in engine/sampling_check.py). What
else a body may hold is bounded by its values (core/json_values.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH, is_below
from server.engine.sampling_limits import MAX_ALLOWED_TOKENS, MAX_BIASED_TOKENS
from server.inference.media_ids import media_in
from server.inference.misnomers import NESTED

# The engine's largest request model has about 70.
MAX_FIELDS = 256
# The engine reads one in a twentieth of a millisecond. Of all conversations together.
MAX_MESSAGES = 10_000
# Of all messages together.
MAX_PARTS = 10_000
# OpenAI takes 128.
MAX_TOOLS = 1000
# The engine looks for each of them at every token. OpenAI takes 4.
MAX_STOPS = 256
# Sampling parameters, which a body of token ids has in an object of their own.
SAMPLING = (("stop", MAX_STOPS), ("logit_bias", MAX_BIASED_TOKENS), ("allowed_token_ids", MAX_ALLOWED_TOKENS))
# Of a pattern that is to be found, and how often. At every token the engine's scheduler compares up to size * size *
# count tokens with others, a thousand in a tenth of a millisecond.
MAX_REPETITION = 256
MAX_COMPARED = 32_768
# Of all words of `bad_words` together: the engine splits each into tokens, twice, before it counts these.
MAX_BAD_WORDS_CHARS = 16_384
# Of images, sounds and videos: all of them are read, or fetched, and in memory at once.
MAX_MEDIA = 32


def check_counts(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for too many fields, in the body or in an object of parameters, or a list that is too long."""
    for name, fields in ((None, payload), *((name, payload.get(name)) for name in NESTED)):
        if isinstance(fields, Mapping) and len(fields) > MAX_FIELDS:
            raise BadRequest(
                f"{name or 'The body'} has {len(fields)} fields, expected at most {MAX_FIELDS}.",
                param=name,
                code="too_many_fields",
            )
    nested = payload.get("sampling_params")
    parameters = nested if isinstance(nested, Mapping) else {}
    conversation = "input" if is_below(path, (RESPONSES_PATH,)) else "messages"
    for name, items, most in (
        (conversation, payload.get(conversation), MAX_MESSAGES),
        ("tools", payload.get("tools"), MAX_TOOLS),
        ("stop_sequences", payload.get("stop_sequences"), MAX_STOPS),
        *((field, payload.get(field), most) for field, most in SAMPLING),
        *((f"sampling_params.{field}", parameters.get(field), most) for field, most in SAMPLING),
    ):
        if isinstance(items, list | Mapping) and len(items) > most:
            kind = "a list" if isinstance(items, list) else "an object"
            raise BadRequest(
                f"{name} is {quoted(items)}, expected {kind} of at most {most}.", param=name, code="list_too_long"
            )
    _check_repetition("repetition_detection", payload.get("repetition_detection"))
    _check_repetition("sampling_params.repetition_detection", parameters.get("repetition_detection"))
    _check_bad_words("bad_words", payload.get("bad_words"))
    _check_bad_words("sampling_params.bad_words", parameters.get("bad_words"))
    messages = _messages(payload.get(conversation))
    for within, number, what, most in (
        ("conversations", len(messages), "messages", MAX_MESSAGES),
        ("messages", _parts(messages), "parts", MAX_PARTS),
    ):
        if number > most:
            raise BadRequest(
                f"The {within} in {conversation} have {number} {what}, expected at most {most} in all of them.",
                param=conversation,
                code="list_too_long",
            )


def check_media(payload: Mapping[str, object]) -> bool:
    """BadRequest for too many images, sounds and videos; else whether there are any."""
    media = sum(1 for _ in media_in(payload))
    if media > MAX_MEDIA:
        raise BadRequest(
            f"There are {media} images, sounds and videos, expected at most {MAX_MEDIA} in a request.",
            code="list_too_long",
        )
    return media > 0


def _check_repetition(name: str, sought: object) -> None:
    if not isinstance(sought, Mapping):
        return
    sizes = []
    for field in ("max_pattern_size", "min_count"):
        size = sought.get(field)
        sizes.append(_number(size))
        if sizes[-1] > MAX_REPETITION:
            raise BadRequest(
                f"{name}.{field} is {quoted(size)}, expected at most {MAX_REPETITION}.",
                param=f"{name}.{field}",
                code="invalid_value",
            )
    if sizes[0] ** 2 * sizes[1] > MAX_COMPARED:
        raise BadRequest(
            f"{name}: the square of max_pattern_size times min_count is {sizes[0] ** 2 * sizes[1]:g}, expected at most "
            f"{MAX_COMPARED}.",
            param=name,
            code="invalid_value",
        )


def _check_bad_words(name: str, words: object) -> None:
    chars = sum(len(word) for word in words if isinstance(word, str)) if isinstance(words, list | str) else 0
    if chars > MAX_BAD_WORDS_CHARS:
        raise BadRequest(
            f"The words in {name} have {chars} characters, expected at most {MAX_BAD_WORDS_CHARS} in all of them.",
            param=name,
            code="list_too_long",
        )


def _number(value: object) -> float:
    """`value`, also as a text, which the engine takes for the number; 0 for what is none, which the engine refuses."""
    try:
        return max(0.0, float(value)) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        return 0.0
    except OverflowError:
        return math.inf


def _messages(said: object) -> list[object]:
    """Of a conversation, or of a list of several, as /v1/chat/completions/batch takes them."""
    items = said if isinstance(said, list) else []
    return [message for item in items for message in (item if isinstance(item, list) else (item,))]


def _parts(messages: Iterable[object]) -> int:
    """Of all `messages` whose content is a list."""
    contents = (message.get("content") for message in messages if isinstance(message, Mapping))
    return sum(len(content) for content in contents if isinstance(content, list))
