"""Refuses a request whose body the engine's route would refuse, in the route's words, while it waits for its turn.

Only one that waits: one whose turn has come is told by the route as soon, and its body is read once. Nobody waits for a
line of a batch, whose turn may be hours away; it is told when it comes. A response in the background was told when it
was queued.
"""

from __future__ import annotations

from server.core.json_text import parse_json
from server.core.off_loop import off_loop
from server.engine.protocol import Engine
from server.inference.request import InferenceRequest


async def check_body(request: InferenceRequest, engine: Engine) -> None:
    """BadRequest for what the route of `request` would refuse of its body."""
    was_queued = request.response is not None and request.response.background
    if not request.background and not was_queued:
        await off_loop(len(request.body), _check, request, engine)


def _check(request: InferenceRequest, engine: Engine) -> None:
    engine.check_request(request.path, parse_json(request.body))
