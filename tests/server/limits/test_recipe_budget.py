"""New recipes have their projections drawn, so each tenant has a share of that time."""

from __future__ import annotations

import pytest

from adapters.vector.recipe import Recipe
from server.api.app import create_app
from server.core.errors import BadRequest, TooManyRequests
from server.core.principal import OPEN_PRINCIPAL, Principal, Tenant
from server.core.settings import Settings
from server.db.database import Database
from server.limits.recipe_budget import RecipeBudget
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine

OTHER = Principal(Tenant(2, "other"), "key_1", frozenset({"infer"}))
ADMIN = Principal(Tenant(3, "operator"), None, frozenset({"admin"}))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> RecipeBudget:
    # 200 modules: 11.6 ms for a default recipe.
    return RecipeBudget(modules=200, per_minute=100, at_once=150, clock=clock)


def draw_until_refused(budget: RecipeBudget, principal: Principal, first_seed: int) -> int:
    for count in range(1000):
        try:
            budget.charge(Recipe(seed=first_seed + count), principal, "adapter")
        except TooManyRequests as error:
            assert error.headers is not None and int(error.headers["retry-after"]) >= 1
            return count
    raise AssertionError("never refused")


def test_tenant_with_ever_new_seeds_is_stopped_and_others_are_not(budget: RecipeBudget, clock: Clock) -> None:
    assert draw_until_refused(budget, OPEN_PRINCIPAL, 0) == 9
    assert draw_until_refused(budget, OTHER, 1000) == 9
    clock.now += 30
    assert 4 <= draw_until_refused(budget, OPEN_PRINCIPAL, 2000) <= 6


@pytest.mark.parametrize("per_minute", [100, 0])
@pytest.mark.parametrize("principal", [OTHER, ADMIN], ids=["tenant", "operator"])
def test_recipe_that_takes_too_long_is_refused_whoever_sends_it(per_minute: int, principal: Principal) -> None:
    budget = RecipeBudget(modules=200, per_minute=per_minute, at_once=150)
    with pytest.raises(BadRequest, match="u=512 and rank=2") as caught:
        budget.charge(Recipe(u=512), principal, "adapter")
    assert (caught.value.param, caught.value.code) == ("adapter", "recipe_too_large")
    budget.charge(Recipe(), principal, "adapter")


def test_no_budget_of_a_minute_is_no_limit_of_their_number() -> None:
    budget = RecipeBudget(modules=200, per_minute=0, at_once=150)
    for seed in range(1000):
        budget.charge(Recipe(seed=seed), OTHER, "adapter")


async def test_request_with_a_recipe_too_large_says_so_and_is_not_run(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_recipe_ms": 1}), engine, app_database)
    async with client_of(app) as client:
        for u, status in ((1, 200), (256, 400)):
            adapter = {"vector": [0.0] * u, "recipe": {"groups": 1, "u": u}}
            body = {"messages": [{"role": "user", "content": "hi"}], "adapter": adapter}
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == "recipe_too_large"


async def test_job_whose_recipe_is_too_large_is_refused_when_it_is_made(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_recipe_ms": 1}), engine, app_database)
    job = {"model": BASE, "training_file": "file-1", "tinylora": {"recipe": {"u": 256, "groups": 1}}}
    async with client_of(app) as client:
        response = await client.post("/v1/fine_tuning/jobs", json=job)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "tinylora.recipe", "recipe_too_large")
