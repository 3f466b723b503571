"""What new recipes may cost: before the first adapter of a recipe can run, the gateway draws the recipe's P.

    milliseconds of a recipe = modules * (0.05 + 0.002 * u * rank^2)        measured on one core of an AMD EPYC

Each tenant may have so many milliseconds of them drawn per minute, in a bucket like those of other quotas, and is
charged for whoever acts for it: a training job's worker, or an operator. It is this gateway's time, so each gateway
counts for itself. Recipes that are drawn already cost nothing
(engine_forms.py), so only a tenant that sends a new seed with every request meets the limit.

A recipe that would take too long by itself is refused, whatever is left: its own client would wait that long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil

from adapters.vector.recipe import Recipe
from server.core.errors import BadRequest, TooManyRequests
from server.core.principal import Principal
from server.core.retry_headers import retry_headers
from server.limits.token_bucket import Bucket, TokenBuckets

MODULE_MS, NUMBER_MS = 0.05, 0.002


class RecipeBudget:
    """`modules` is how many the base model has. Times are in milliseconds; 0 `per_minute` is no limit of a minute."""

    def __init__(
        self, *, modules: int, per_minute: int, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._modules = modules
        self._per_minute = per_minute
        self._at_once = at_once
        self._buckets = TokenBuckets(clock)

    def charge(self, recipe: Recipe, principal: Principal, path: str) -> None:
        """Take what drawing `recipe`, found at `path` of a request, costs from its tenant.

        Raises BadRequest as `check`, TooManyRequests when the tenant has used its time up.
        """
        self.check(recipe, path)
        if not self._per_minute:
            return
        bucket = Bucket(("recipes", principal.tenant.id), self._per_minute)
        if self._buckets.level(bucket) <= 0:
            wait = self._buckets.seconds_until(bucket, 1)
            raise TooManyRequests(
                f"Tenant {principal.tenant.name} has sent too many new recipes: drawing their projections may take "
                f"{self._per_minute} ms a minute. Try again in {wait:.0f} s, or use recipes that you have used lately.",
                counted="requests",
                reason="recipes",
                headers=retry_headers(wait),
            )
        self._buckets.take(bucket, ceil(self.cost_ms(recipe)))

    def check(self, recipe: Recipe, path: str) -> None:
        """BadRequest when `recipe`, found at `path` of a request, takes too long to draw, for whomever."""
        cost = self.cost_ms(recipe)
        if cost > self._at_once:
            raise BadRequest(
                f"{path} has a recipe with u={recipe.u} and rank={recipe.rank}, whose projection takes about "
                f"{cost:.0f} ms to draw, expected at most {self._at_once} ms (the server's setting max_recipe_ms); use "
                "a lower u or rank",
                param=path,
                code="recipe_too_large",
            )

    def cost_ms(self, recipe: Recipe) -> float:
        """How long drawing P of all modules takes."""
        if recipe.projection == "elementary":  # nothing is drawn
            return 0.0
        return self._modules * (MODULE_MS + NUMBER_MS * recipe.u * recipe.rank**2)
