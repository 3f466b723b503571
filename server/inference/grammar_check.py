"""Refuses requests whose grammar the engine would not compile, naming the field, before the engine sees them.

It comes when a request has been charged, so that a tenant without quota compiles nothing, and before it waits for its
turn, so that it keeps no slot of the engine meanwhile.
"""

from __future__ import annotations

from server.core.errors import BadRequest
from server.engine.protocol import Engine
from server.inference.request import InferenceRequest

# Each may take seconds of computing. OpenAI takes 128 tools.
MAX_GRAMMARS = 128


class GrammarCheck:
    """Asks `engine` about every grammar of a request, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def check(self, request: InferenceRequest) -> None:
        """BadRequest for the first grammar that cannot be used, or for too many of them."""
        if len(request.grammars) > MAX_GRAMMARS:
            raise BadRequest(
                f"The request has {len(request.grammars)} grammars: schemas of its format and of tools with strict. "
                f"Expected at most {MAX_GRAMMARS}; make fewer tools strict.",
                param=request.grammars[MAX_GRAMMARS].field,
                code="list_too_long",
            )
        for grammar in request.grammars:
            why = await self._engine.why_no_grammar(grammar, request.principal.tenant.id)
            if why is not None:
                raise BadRequest(f"{grammar.field}: {why}", param=grammar.field, code="invalid_grammar")
