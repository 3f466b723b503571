"""Names that clients give to images and other media (`uuid` beside one): each tenant's for itself.

The engine keeps what it has read of a medium under that name, in place of its content, and looks no further. So the
same name of two tenants would be one image: the first one's, for a request of the other without any image too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# By any of which the engine takes a part of a message for one with a medium.
MEDIA = frozenset(
    ("image_url", "image_pil", "image_embeds", "input_image", "audio_url", "audio_embeds", "input_audio", "video_url",
     "video_embeds", "prompt_embeds")
)  # fmt: skip
# Where messages, and the parts of one, are: of chats, of /v1/responses, of tools' answers, of pairs to be compared.
_FIELDS = (
    "messages", "input", "inputs", "documents", "query", "queries", "items", "text_1", "text_2", "data_1", "data_2",
    "state", "system", "instructions", "content_parts", "previous_input_messages",
)  # fmt: skip
_INNER = ("content", "output")
# The images of /v1/systemone, by themselves.
_BARE = ("images", "videos", "audio")
# Deeper than any message has its parts.
_MAX_DEPTH = 12


def own_media_ids(payload: dict[str, Any], tenant_id: int) -> bool:
    """Put the tenant before the name of each medium in `payload`, the body of a request to the engine. Whether there
    was one. What `payload` holds is not changed but replaced, for others may hold it too."""
    owned = {field: _owned(payload[field], f"{tenant_id}:", _MAX_DEPTH) for field in _FIELDS if field in payload}
    named = {field: value for field, value in owned.items() if value is not payload[field]}
    payload.update(named)
    return bool(named)


def media_in(payload: Mapping[str, Any]) -> Iterator[object]:
    """Each image, sound and video of a body."""
    for field in _BARE:
        value = payload.get(field)
        yield from value if isinstance(value, list) else ()
    pending: list[Any] = [payload.get(field) for field in _FIELDS]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += [one for one in value if isinstance(one, (list, dict))]  # of tokens there may be a million
        elif isinstance(value, dict):
            if _is_medium(value):
                yield value
            pending += map(value.get, _INNER)


def _owned(value: Any, prefix: str, depth: int) -> Any:
    """`value` itself where it has no name of a medium."""
    if depth and isinstance(value, list):
        items = [_owned(one, prefix, depth - 1) for one in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if not depth or not isinstance(value, dict):
        return value
    changed = {field: _owned(value[field], prefix, depth - 1) for field in _INNER if field in value}
    changed = {field: new for field, new in changed.items() if new is not value[field]}
    if value.get("uuid") is not None and _is_medium(value):
        changed["uuid"] = f"{prefix}{value['uuid']}"
    return {**value, **changed} if changed else value


def _is_medium(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    return not MEDIA.isdisjoint(part) or (isinstance(kind, str) and kind in MEDIA) or kind == "image"
