"""What a request to /v1/responses is to become: which response, gone on from which, stored or not, in the background.

`plan_response` settles it before anything runs, and rewrites the body for the engine, which knows nothing of stored
responses: its `input` becomes the whole conversation, and the fields about storing are taken out.

    previous_response_id   the input and output of that response come before `input`; its instructions do not
    item_reference         in `input`, an item of an earlier output by its id, becomes that item
    store                  true unless the request says otherwise, as OpenAI's
    background             the response is stored before it runs, and fetched later; with stream, its events are too
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, quoted
from server.core.ids import new_id
from server.db.idempotency import IdempotencyKey
from server.inference.responses.input_items import Item, for_engine, items_of, with_ids, with_whole_texts
from server.inference.responses.rows import PREFIX, RUNNING, find_items, find_response

MAX_REFERENCES = 1000
# What is read for them at most, in times of what a response may have.
READ_TIMES = 16
_ENDED_WELL = ("completed", "incomplete")
_ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "reasoning", "safety_identifier",
    "prompt_cache_key", "temperature", "text", "top_logprobs", "top_p", "truncation", "user",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """`items` are the whole input of the response, each with an id; none when it is not stored. `fields` are those of
    OpenAI's object that the engine does not set."""

    id: str
    store: bool
    background: bool
    streams: bool  # in the background, its events stored to be streamed by whoever asks
    items: tuple[Item, ...]
    fields: dict[str, Any]
    queued: dict[str, Any]  # OpenAI's object before it runs
    key: IdempotencyKey | None = None  # in the background: whoever sends it again is shown the same response


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """`keeps`: whether responses are stored at all. Bytes of one, input and output, and of a tenant's together."""

    keeps: bool
    most_bytes: int
    most_tenant_bytes: int
    retention_days: int


def too_large(limits: ResponseLimits) -> BadRequest:
    """The error for a response that is to be stored and has too many bytes."""
    return BadRequest(
        f"The response cannot be stored: with its whole input it has more than {limits.most_bytes} bytes as JSON (the "
        "server's setting max_response_bytes). Send less, or store: false without background.",
        param="input",
        code="response_too_large",
    )


def needs_store(payload: Mapping[str, Any]) -> bool:
    """Whether the request has to look at stored responses before it can run."""
    return payload.get("previous_response_id") is not None or bool(_references(payload))


def plan_response(
    payload: dict[str, Any],
    size: int,
    model: str,
    limits: ResponseLimits,
    connection: Connection | None,
    tenant_id: int,
) -> tuple[ResponsePlan, int]:
    """The plan, and how many bytes of stored items the body now has besides its `size`. Rewrites `payload`.

    Raises BadRequest. `model` is the one that will answer, as its answer names it. `connection` is that of
    `needs_store`; the caller gives none where that is False.
    """
    store, background, previous_id = check_storing(payload, limits)
    history: list[Item] = []
    added = 0
    if connection is not None:
        added = _resolve_references(payload, limits, connection, tenant_id)
        if previous_id is not None:
            row = _previous(connection, tenant_id, previous_id, limits)
            history, added = _conversation(row), added + row.bytes
    items = history + [item for item in items_of(payload.get("input")) if isinstance(item, dict)]
    if store and size + added > limits.most_bytes:
        if payload.get("store") or background:
            raise too_large(limits)
        store = False
    response_id = new_id(PREFIX)
    fields: dict[str, Any] = {"id": response_id, "previous_response_id": previous_id, "store": store}
    fields["background"] = background
    if background:
        fields["created_at"] = now()
    plan = ResponsePlan(
        id=response_id,
        store=store,
        background=background,
        streams=background and bool(payload.get("stream")),
        items=tuple(with_ids(items)) if store else (),
        fields=fields,
        queued=_queued(payload, model, fields) if background else {},
    )
    if history and isinstance(payload.get("input"), str | list | None):
        payload["input"] = for_engine(history) + items_of(payload.get("input"))
    if isinstance(payload.get("input"), list):
        payload["input"] = with_whole_texts(payload["input"])
    for name in ("previous_response_id", "conversation", "background"):
        payload.pop(name, None)
    payload.update(store=False, request_id=response_id)
    return plan, added


def check_storing(payload: Mapping[str, Any], limits: ResponseLimits) -> tuple[bool, bool, str | None]:
    """store, background and previous_response_id. BadRequest for what cannot be."""
    for name in ("store", "background", *(("stream",) if payload.get("background") else ())):
        if not isinstance(payload.get(name), bool | None):
            raise BadRequest(
                f"{name} is {quoted(payload[name])}, expected true or false", param=name, code="invalid_value"
            )
    previous_id, background = payload.get("previous_response_id"), bool(payload.get("background"))
    if not isinstance(previous_id, str | None):
        raise BadRequest(
            f"previous_response_id is {quoted(previous_id)}, expected the id of a response",
            param="previous_response_id",
            code="invalid_value",
        )
    if payload.get("conversation") is not None:
        raise BadRequest(
            "conversation: there are no conversations here. Go on from the last response, with previous_response_id.",
            param="conversation",
            code="not_supported",
        )
    store = limits.keeps and payload.get("store") is not False
    for name, wanted in (("previous_response_id", previous_id is not None), ("background", background)):
        if wanted and not limits.keeps:
            raise BadRequest(
                f"{name}: responses are not stored on this server (its setting store_responses). Send the earlier "
                "messages and outputs in `input`, and wait for the answer or stream it.",
                param=name,
                code="not_supported",
            )
    if background and not store:
        raise BadRequest(
            "background needs store: the answer is fetched from there. Leave store out.",
            param="background",
            code="invalid_value",
        )
    return store, background, previous_id


def _previous(connection: Connection, tenant_id: int, response_id: str, limits: ResponseLimits) -> Row[Any]:
    row = find_response(connection, tenant_id, response_id)
    if row is None:
        kept = f"is older than {limits.retention_days} days, " if limits.retention_days else ""
        raise BadRequest(
            f"Previous response with id {quoted(response_id)} not found: it was not stored (`store` in it says so), "
            f"has been deleted, {kept}or made room for newer ones. Send the earlier messages and outputs in `input`.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if row.status not in _ENDED_WELL:
        raise BadRequest(
            f"The response {quoted(response_id)} is {row.status}, so it has no answer to go on from. "
            f"{'Wait for it, or go' if row.status in RUNNING else 'Go'} on from the one before it.",
            param="previous_response_id",
            code="previous_response_not_ended",
        )
    return row


def _conversation(row: Row[Any]) -> list[Item]:
    items: list[Item] = json.loads(row.input)
    output: list[Item] = json.loads(row.response)["output"]
    return items + output


def _references(payload: Mapping[str, Any]) -> list[str]:
    sent = payload.get("input")
    items = sent if isinstance(sent, list) else []
    ids = [item.get("id") for item in items if isinstance(item, dict) and item.get("type") == "item_reference"]
    return [one for one in ids if isinstance(one, str)]


def _resolve_references(payload: dict[str, Any], limits: ResponseLimits, connection: Connection, tenant_id: int) -> int:
    """Put items in the place of references to them; how many bytes they have."""
    wanted = _references(payload)
    if not wanted:
        return 0
    if len(wanted) > MAX_REFERENCES:
        raise BadRequest(
            f"input refers to {len(wanted)} items, expected at most {MAX_REFERENCES}",
            param="input",
            code="invalid_value",
        )
    found = find_items(connection, tenant_id, wanted, READ_TIMES * limits.most_bytes)
    items: list[object] = []
    for place, item in enumerate(payload["input"]):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            named = item.get("id")
            if not isinstance(named, str) or named not in found:
                raise BadRequest(
                    f"input[{place}]: item with id {quoted(named)} not found: its response was not stored, "
                    "has been deleted or is too old. Send the item itself.",
                    param="input",
                    code="item_not_found",
                )
            item = found[named]
        items.append(item)
    payload["input"] = items
    sizes = {one: len(json.dumps(item)) for one, item in found.items()}
    return sum(sizes[one] for one in wanted)


def _queued(payload: dict[str, Any], model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The object of a response that waits to run. The engine's answer takes its place, with the defaults filled in."""
    return {
        **{name: payload.get(name) for name in _ECHOED},
        "model": model,
        "object": "response",
        "status": "queued",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "parallel_tool_calls": payload.get("parallel_tool_calls", True),
        "tool_choice": payload.get("tool_choice", "auto"),
        "tools": payload.get("tools") or [],
        "usage": None,
        **fields,
    }
