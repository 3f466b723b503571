"""Items of a response's input: with ids where they are stored, as the engine takes them, and as they are listed.

What a client sent is stored as it is, but for ids: a conversation that goes on from it has the same prompt, to the
token, and finds it in the engine's cache. Only listings bring items into one form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from server.core.ids import new_id

Item = dict[str, Any]

_PREFIXES = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}
_OTHER_PREFIX = "item_"
MAX_ID_CHARS = 64


def items_of(value: object) -> list[object]:
    """The field `input` of a request as a list: a text is a message of the user."""
    return (
        [{"role": "user", "content": value}]
        if isinstance(value, str)
        else list(value)
        if isinstance(value, list)
        else []
    )


def with_ids(items: Iterable[Item]) -> list[Item]:
    """`items`, each with an id that no other one of them has."""
    taken: set[str] = set()
    named = []
    for item in items:
        own = item.get("id")
        if not isinstance(own, str) or not 0 < len(own) <= MAX_ID_CHARS or own in taken:
            own = new_id(_PREFIXES.get(_type(item), _OTHER_PREFIX))
        taken.add(own)
        named.append({**item, "id": own})
    return named


def for_engine(items: Iterable[Item]) -> list[Item]:
    """Stored `items` as the engine takes them: without ids, and without messages in which nothing is said."""
    return [{key: value for key, value in item.items() if key != "id"} for item in items if not _is_empty(item)]


def with_whole_texts(items: Iterable[object]) -> list[object]:
    """`items` as the engine is to read them: of a message of the model it takes the first part and passes over the
    others, so that several texts become one, each on lines of its own, as in chats.

    It refuses a message of texts that the model wrote without `type`, as the AI SDK sends it, and one that begins with
    a refusal, which is a text here, too.
    """
    return [_with_whole_text(item) if isinstance(item, dict) else item for item in items]


def listed(item: Mapping[str, Any]) -> Item:
    """A stored item in the one form of listings."""
    if _type(item) != "message":
        return dict(item)
    content = item.get("content")
    if isinstance(content, str):
        said_by_model = item.get("role") == "assistant"
        part = {"type": "output_text", "text": content, "annotations": []}
        content = [part if said_by_model else {"type": "input_text", "text": content}]
    return {"status": "completed", **item, "type": "message", "content": content}


def _type(item: Mapping[str, Any]) -> str:
    kind = item.get("type")
    return kind if isinstance(kind, str) else "message"


def _with_whole_text(item: Item) -> Item:
    parts = item.get("content")
    if _type(item) != "message" or item.get("role") != "assistant" or not isinstance(parts, list) or not parts:
        return item
    texts = [part.get("text", part.get("refusal")) if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        return item  # the engine's to refuse
    part = {"type": "output_text", "text": "\n".join(map(str, texts)), "annotations": []}
    return {**item, "type": "message", "content": [part]}


def _is_empty(item: Item) -> bool:
    return _type(item) == "message" and item.get("role") == "assistant" and item.get("content") == []
