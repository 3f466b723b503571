"""`service_tier`: how soon a request is served, said as OpenAI's clients say it.

    priority            before its tenant's other requests, at a quarter of their cost in the turns of tenants
    default, auto       as they come
    flex                after its tenant's other requests

The operator says how many requests of a tenant may have priority in a minute; without that, or beyond it, a request is
served as default, as OpenAI does, and so is a line of a batch: it comes after all others. Answers say which tier it
was. Other services' tiers (scale, fast, ultrafast, standard_only) are default here.

The engine gets the number that stands for the tier: where its KV cache is full, it stops the requests with the highest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from server.core.errors import BadRequest, quoted
from server.core.principal import Principal
from server.inference.gateway_fields import priority_of
from server.limits.quotas import Quotas

Tier = Literal["priority", "default", "flex"]
TIERS: dict[str, Tier] = {
    "auto": "default",
    "default": "default",
    "flex": "flex",
    "priority": "priority",
    **dict.fromkeys(("scale", "fast", "ultrafast", "standard_only"), "default"),
}
PRIORITIES: dict[Tier, int] = {"priority": -10, "default": 0, "flex": 50}
# Objects of OpenAI's API that say which tier they were served with.
TIERED = frozenset({"chat.completion", "chat.completion.chunk", "text_completion", "response"})
EVENT = b"data: {"


@dataclass(frozen=True, slots=True)
class Standing:
    """`priority` is lower for what goes first; `tier` is None where the request named none."""

    priority: int = 0
    tier: Tier | None = None


class ServiceTiers:
    """Settles the tier of requests that run the model."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def settle(self, payload: dict[str, Any], principal: Principal, *, background: bool = False) -> Standing:
        """Take `service_tier` out of `payload`, and set its `priority` accordingly. background: it is of a batch.

        Raises as `tier_of`.
        """
        tier, priority = tier_of(payload)
        payload.pop("service_tier", None)
        if tier is None:
            return Standing(priority)
        if tier == "priority" and (background or not await self._quotas.grants_priority(principal)):
            tier = "default"
        if tier == "default":
            return Standing(priority, tier)
        payload["priority"] = PRIORITIES[tier]
        return Standing(PRIORITIES[tier], tier)


def tier_of(payload: Mapping[str, Any]) -> tuple[Tier | None, int]:
    """The tier that a request names, None where it names none, and its priority.

    BadRequest for an unknown tier, one that contradicts `priority`, and as `priority_of`.
    """
    sent, priority = payload.get("service_tier"), priority_of(payload)
    if sent is None:
        return None, priority
    tier = TIERS.get(sent) if isinstance(sent, str) else None
    if tier is None:
        raise BadRequest(
            f"service_tier is {quoted(sent)}, expected one of {', '.join(TIERS)}",
            param="service_tier",
            code="invalid_value",
        )
    if tier != "default" and payload.get("priority") is not None:
        raise BadRequest(
            f"service_tier is {quoted(sent)} and priority is {priority}: both say how soon the request is served; "
            "send one of them",
            param="service_tier",
            code="conflicting_parameters",
        )
    return tier, priority


class TierEcho:
    """A `send` that writes into the answer which `tier` its request was served with."""

    def __init__(self, send: Send, tier: Tier) -> None:
        self._send = send
        self._tier = tier
        self._start: Message | None = None  # of an answer that is one JSON object, until all of it is there
        self._body = bytearray()
        self._events = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._events = kind.startswith("text/event-stream")
            if kind.startswith("application/json") and message["status"] == 200:
                self._start = message
                return
        elif message["type"] == "http.response.body":
            if self._start is not None:
                self._body += message.get("body", b"")
                if not message.get("more_body", False):
                    await self._send_whole(self._start)
                return
            if self._events:
                message = {**message, "body": self._with_tier(message.get("body", b""))}
        await self._send(message)

    async def _send_whole(self, start: Message) -> None:
        body = self._said(bytes(self._body))
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _with_tier(self, events: bytes) -> bytes:
        """The engine sends whole events; what is none goes on as it is."""
        lines = events.split(b"\n")
        return b"\n".join(b"data: " + self._said(line[6:]) if line.startswith(EVENT) else line for line in lines)

    def _said(self, content: bytes) -> bytes:
        try:
            answer = json.loads(content)
        except ValueError:
            return content
        found = answer.get("response", answer) if isinstance(answer, dict) else None
        if not isinstance(found, dict) or found.get("object") not in TIERED:
            return content
        found["service_tier"] = self._tier
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
