"""Refuses requests whose grammar the engine would not compile, naming the field, before the engine sees them.

It comes when a request has been admitted, so that a tenant without quota compiles nothing.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from server.core.errors import BadRequest
from server.engine.protocol import Engine
from server.inference.request import InferenceRequest


class GrammarCheck:
    """Asks `engine` about every grammar of a request; one at a time of each tenant, so that others find a free one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asking: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # by tenant

    async def check(self, request: InferenceRequest) -> None:
        """BadRequest for the first grammar that cannot be used."""
        for grammar in request.grammars:
            lock = self._asking.setdefault(request.principal.tenant.id, asyncio.Lock())
            async with lock:
                why = await self._engine.why_no_grammar(grammar)
            if why is not None:
                raise BadRequest(f"{grammar.field}: {why}", param=grammar.field, code="invalid_grammar")
