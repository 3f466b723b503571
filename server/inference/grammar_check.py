"""Refuses requests whose grammar the engine would not compile, naming the field, before the engine sees them.

It comes when a request has been charged, so that a tenant without quota compiles nothing, and before it waits for its
turn, so that it keeps no slot of the engine meanwhile.
"""

from __future__ import annotations

from server.core.errors import BadRequest
from server.engine.protocol import Engine
from server.inference.request import InferenceRequest


class GrammarCheck:
    """Asks `engine` about every grammar of a request, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def check(self, request: InferenceRequest) -> None:
        """BadRequest for the first grammar that cannot be used; TooManyRequests while its tenant asks about many."""
        for grammar in request.grammars:
            why = await self._engine.why_no_grammar(grammar, request.principal.tenant.id)
            if why is not None:
                raise BadRequest(f"{grammar.field}: {why}", param=grammar.field, code="invalid_grammar")
