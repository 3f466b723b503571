"""Refuses requests whose grammar the engine would not compile, naming the field, before the engine sees them.

Design decision: pure ASGI right inside of Admission, so that a tenant without quota compiles nothing, and behind
AdapterMiddleware, which finds the grammars while it has the body parsed.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import BadRequest
from server.core.principal import principal_of
from server.engine.grammar import Grammar
from server.engine.protocol import Engine


class GrammarCheck:
    """Asks `engine` about every grammar of a request; one at a time of each tenant, so that others find a free one."""

    def __init__(self, app: ASGIApp, *, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._asking: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # by tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        grammars: tuple[Grammar, ...] = scope.get("state", {}).pop("grammars", ()) if scope["type"] == "http" else ()
        for grammar in grammars:
            lock = self._asking.setdefault(principal_of(scope).tenant.id, asyncio.Lock())
            async with lock:
                why = await self._engine.why_no_grammar(grammar)
            if why is not None:
                refusal = BadRequest(f"{grammar.field}: {why}", param=grammar.field, code="invalid_grammar")
                await response_to(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
