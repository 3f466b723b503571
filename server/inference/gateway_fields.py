"""The engine's own fields and headers that are the gateway's to set.

    cache_salt      requests with the same salt share cached prefixes: one per tenant, whatever the client sends
    request_id      left out: the engine takes its id from the gateway's header, a client's might be another request's
    priority        0 (as soon as possible, the default) to 100: a client can only make its requests wait for others; a
                    line of a batch comes after all of these

    x-vllm-priority        vLLM's header for `priority`, which counts there before the field, and the only way to say it
                           on /v1/messages: taken from the client as the field is, and set by the gateway
    x-data-parallel-rank   left out: a rank is the engine's to choose, which knows how much each has to do

They concern the routes that run the model (core/paths.py, MODEL_ROUTES).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from server.core.errors import BadRequest, quoted
from server.core.request_state import RawHeaders

MAX_PRIORITY = 100
BACKGROUND_PRIORITY = MAX_PRIORITY + 1
PRIORITY_HEADER, RANK_HEADER = "x-vllm-priority", "x-data-parallel-rank"


def take_priority_of_header(payload: dict[str, object], scope: Scope) -> None:
    """Put the priority that the header says, if it does, into `payload`, as the engine does. A text that is no number
    stays one, and is refused where the field is."""
    said = Headers(scope=scope).get(PRIORITY_HEADER)
    if said is not None:
        payload["priority"] = int(said) if said.isdecimal() and len(said) <= len(str(MAX_PRIORITY)) else said


def engine_headers(headers: RawHeaders, priority: object) -> RawHeaders:
    """`headers` as the engine may get them. priority: of a body that runs the model, behind `set_gateway_fields`; else
    None."""
    said = MutableHeaders(raw=[*headers])
    del said[PRIORITY_HEADER], said[RANK_HEADER]
    if priority is not None:
        said[PRIORITY_HEADER] = str(priority)
    return said.raw


def set_gateway_fields(payload: dict[str, object], tenant_id: int, *, background: bool = False) -> None:
    """Set in `payload`, the body of a request that runs the model, the salt of its tenant; leave out its request_id."""
    payload["cache_salt"] = f"tenant-{tenant_id}"
    if background:
        payload["priority"] = BACKGROUND_PRIORITY
    elif payload.get("priority") is None:
        payload.pop("priority", None)  # the engine takes no null
    payload.pop("request_id", None)


def priority_of(payload: Mapping[str, object]) -> int:
    """How long the request may wait for others: 0 to 100. BadRequest for anything else."""
    priority = payload.get("priority")
    if priority is None:
        return 0
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        raise BadRequest(
            f"priority is {quoted(priority)}, expected a whole number from 0 (as soon as possible) to {MAX_PRIORITY} "
            "(after the others)",
            param="priority",
            code="invalid_value",
        )
    return priority


def asks_for_prompt_only(payload: Mapping[str, object]) -> bool:
    """Whether a request wants only the log-probabilities of its prompt, and no answer."""
    return payload.get("echo") is True and payload.get("max_tokens") == 0
