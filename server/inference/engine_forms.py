"""From an adapter to its engine form, the matrices that the engine takes.

    known adapter                       a look-up
    new vector of a known recipe        one small matrix product
    new recipe                          its projections are drawn first, by a process; only its own requests wait

Design decision: computed in the gateway and not in the engine's step, for which all running requests would wait.

One cache, bounded by bytes, has the projections of all tenants. A tenant is charged for exactly those draws that its
requests cause (limits/recipe_budget.py). Recipes that differ in groups, tying or convention share their projections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from torch import Tensor

from adapters.apply.engine_form import engine_form
from adapters.apply.reconstruct import draw_projections
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.core.background import cancelled
from server.core.principal import Principal
from server.inference.projection_process import ProjectionProcess
from server.limits.recipe_budget import RecipeBudget
from server.registry.cache import ResolveCache

MAX_FORM_BYTES = 64 * 2**20
MAX_PROJECTION_BYTES = 256 * 2**20
MAX_ENTRIES = 65_536
ENTRY_BYTES = 512
# A product with more numbers of P than this is done in a thread, a draw of more milliseconds by the process.
SMALL_PRODUCT = 2**16
SMALL_DRAW_MS = 5


class EngineForms:
    """For one event loop. PEFT's projections are drawn in threads: it is quick, and torch releases the interpreter."""

    def __init__(self, factors: Factors, budget: RecipeBudget, *, max_projection_bytes: int = MAX_PROJECTION_BYTES):
        self._factors = factors
        self._budget = budget
        self._process = ProjectionProcess(factors.modules)
        self._forms: ResolveCache[str, str] = ResolveCache(
            MAX_ENTRIES, max_bytes=MAX_FORM_BYTES, size_of=lambda form: len(form) + ENTRY_BYTES
        )
        self._drawn: ResolveCache[Recipe, Tensor] = ResolveCache(
            MAX_ENTRIES, max_bytes=max_projection_bytes, size_of=lambda p_MUE: p_MUE.nbytes + ENTRY_BYTES
        )
        self._drawing: dict[Recipe, asyncio.Task[Tensor]] = {}

    async def of(self, adapter: Adapter, principal: Principal, path: str) -> str:
        """The engine's form of `adapter`, which stands at `path` of a request of `principal`.

        Raises BadRequest and TooManyRequests as RecipeBudget.charge, and Unavailable.
        """
        digest = adapter.digest
        form = self._forms.get(digest)
        if form is None:
            projections_MUE = await self._projections(adapter.recipe, principal, path)
            numbers = 0 if projections_MUE is None else projections_MUE.numel()
            if max(numbers, len(adapter.data)) > SMALL_PRODUCT:
                form = await run_in_threadpool(engine_form, adapter, self._factors, projections_MUE)
            else:
                form = engine_form(adapter, self._factors, projections_MUE)
            self._forms.put(digest, form)
        return form

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ends all draws and their process when the block ends."""
        try:
            yield
        finally:
            await cancelled(self._drawing.values())
            await self._process.close()

    async def _projections(self, recipe: Recipe, principal: Principal, path: str) -> Tensor | None:
        if recipe.projection == "elementary":  # nothing is drawn
            return None
        key = replace(recipe, groups=1, tying="tiled", convention="paper")
        drawn = self._drawn.get(key)
        if drawn is not None:
            return drawn
        task = self._drawing.get(key)
        if task is None:
            self._budget.charge(recipe, principal, path)
            task = self._drawing[key] = asyncio.create_task(self._draw(key))
            task.add_done_callback(lambda _: self._drawing.pop(key))
        # Shielded: if this client leaves, the draw goes on. It is charged for, and other requests may wait for it.
        return await asyncio.shield(task)

    async def _draw(self, key: Recipe) -> Tensor:
        in_thread = key.projection == "peft" or self._budget.cost_ms(key) <= SMALL_DRAW_MS
        drawing: Coroutine[Any, Any, Tensor] = (
            run_in_threadpool(draw_projections, key, self._factors.modules) if in_thread else self._process.draw(key)
        )
        drawn = await drawing
        self._drawn.put(key, drawn)
        return drawn
