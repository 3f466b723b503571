"""What new recipes may cost: the engine draws a recipe's P before it can run the first adapter of it, and all requests
wait meanwhile.

    milliseconds of a recipe = modules * (0.05 + 0.002 * u * rank^2)        measured on one core of an AMD EPYC

Design decision: each tenant may have the engine draw for so many milliseconds a minute, in a bucket like those of other
quotas. Recipes that were used lately are drawn already and cost nothing, so tenants whose adapters share some recipes
never notice; one that sends a new seed with every request takes its share and no more.

A recipe that would take too long at once is refused. Operators are not limited.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from adapters.recipe import Recipe
from server.errors import BadRequest, TooManyRequests
from server.principal import Principal
from server.rate_limit_headers import retry_headers
from server.token_bucket import Bucket, TokenBuckets

MODULE_MS, NUMBER_MS = 0.05, 0.002
REMEMBERED_RECIPES = 1024


class RecipeBudget:
    """`modules` is how many the base model has. Times are in milliseconds; 0 `per_minute` is no limit."""

    def __init__(
        self, *, modules: int, per_minute: int, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._modules = modules
        self._per_minute = per_minute
        self._at_once = at_once
        self._buckets = TokenBuckets(clock)
        self._drawn: OrderedDict[Recipe, None] = OrderedDict()

    def charge(self, recipe: Recipe, principal: Principal, path: str) -> None:
        """Note that `recipe`, found at `path` of a request, is about to be used.

        Raises BadRequest when it takes too long to draw, TooManyRequests when the tenant has used its time up.
        """
        if recipe.projection == "elementary":  # nothing is drawn
            return
        if recipe in self._drawn:
            self._drawn.move_to_end(recipe)
            return
        cost = self.cost_ms(recipe)
        if not principal.may("admin") and self._per_minute:
            self._check(recipe, cost, principal, path)
            self._buckets.take(self._bucket(principal), ceil(cost))
        self._drawn[recipe] = None
        if len(self._drawn) > REMEMBERED_RECIPES:
            self._drawn.popitem(last=False)

    def cost_ms(self, recipe: Recipe) -> float:
        """How long the engine takes for P of all modules."""
        return self._modules * (MODULE_MS + NUMBER_MS * recipe.u * recipe.rank**2)

    def _check(self, recipe: Recipe, cost: float, principal: Principal, path: str) -> None:
        if cost > self._at_once:
            raise BadRequest(
                f"{path} has a recipe with u={recipe.u} and rank={recipe.rank}, whose projection takes the engine "
                f"about {cost:.0f} ms to draw, expected at most {self._at_once} ms (the server's setting "
                "max_recipe_ms); use a lower u or rank",
                param=path,
                code="recipe_too_large",
            )
        bucket = self._bucket(principal)
        if self._buckets.level(bucket) <= 0:
            wait = self._buckets.seconds_until(bucket, 1)
            raise TooManyRequests(
                f"Tenant {principal.tenant.name} has sent too many new recipes: drawing their projections may take "
                f"{self._per_minute} ms a minute. Try again in {wait:.0f} s, or use recipes that you have used lately.",
                counted="requests",
                reason="recipes",
                headers=retry_headers(wait),
            )

    def _bucket(self, principal: Principal) -> Bucket:
        return Bucket(("recipes", principal.tenant.id), self._per_minute)
