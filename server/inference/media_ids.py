"""Names that clients give to images and other media (`uuid` beside one): each tenant's for itself.

The engine keeps what it has read of a medium under that name, in place of its content, and looks no further. So the
same name of two tenants would be one image: the first one's, for a request of the other without any image too.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def own_media_ids(payload: dict[str, Any], tenant_id: int) -> bool:
    """Put the tenant before the name of each medium in `payload`, the body of a request to the engine. Whether there
    was one."""
    found = False
    for part in _parts([payload.get(field) for field in _FIELDS]):
        if part.get("uuid") is not None and (part.keys() & MEDIA or part.get("type") in MEDIA):
            part["uuid"] = f"{tenant_id}:{part['uuid']}"
            found = True
    return found


def _parts(values: list[Any]) -> Iterator[dict[str, Any]]:
    pending = [value for value in values if isinstance(value, list | dict)]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            inner: list[Any] = value
        else:
            yield value
            inner = [value.get(field) for field in _INNER]
        pending.extend(one for one in inner if isinstance(one, list | dict))
