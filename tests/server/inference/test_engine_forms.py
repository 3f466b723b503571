"""Adapters made ready for the engine: what is drawn, by whom it is paid for, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
import torch

from adapters.apply.engine_form import engine_form
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.api.app import create_app
from server.core.errors import TooManyRequests, Unavailable
from server.core.principal import OPEN_PRINCIPAL, Principal, Tenant
from server.core.settings import Settings
from server.db.database import Database
from server.inference.engine_forms import EngineForms
from server.limits.recipe_budget import RecipeBudget
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine

# Of 14 modules: 12 ms, which is the process's to draw, and 460 ms.
MEDIUM, LARGE = 100, 4096
OTHER = Principal(Tenant(2, "other"), "key_1", frozenset({"infer"}))
WORKER = Principal(Tenant(2, "other"), None, frozenset({"admin"}))


def made(factors: Factors, u: int = MEDIUM, seed: int = 0, value: float = 0.5, **recipe: object) -> Adapter:
    known = Recipe(**{"u": u, "groups": 1, "seed": seed} | recipe)  # type: ignore[arg-type]
    v_GU = torch.full((known.groups, known.u), value)
    return Adapter.from_vector(v_GU, known, factors.digest, "float32")


@asynccontextmanager
async def running(
    factors: Factors, per_minute: int = 0, at_once: int = 10_000, max_projection_bytes: int = 2**28
) -> AsyncIterator[EngineForms]:
    budget = RecipeBudget(modules=len(factors.modules), per_minute=per_minute, at_once=at_once, clock=lambda: 0.0)
    forms = EngineForms(factors, budget, max_projection_bytes=max_projection_bytes)
    async with forms.running():
        yield forms


def drawing_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "adapters.apply.projection_worker" in child.cmdline()]


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"u": 1, "groups": 13},
        {"groups": 7, "tying": "structured"},
        {"convention": "sqrt"},
        {"projection": "peft"},
        {"u": 4, "groups": 14, "projection": "elementary"},
        {"rank": 1},
        {"u": LARGE},
    ],
)
async def test_form_is_the_one_that_is_computed_in_one_piece(factors: Factors, recipe: dict[str, object]) -> None:
    adapter = made(factors, **recipe)  # type: ignore[arg-type]
    async with running(factors) as forms:
        assert await forms.of(adapter, OTHER, "adapter") == engine_form(adapter, factors)


async def test_recipes_that_were_dropped_are_drawn_and_paid_for_again(factors: Factors) -> None:
    size = 14 * MEDIUM * 4 * 4 + 512
    async with running(factors, per_minute=100, max_projection_bytes=2 * size) as forms:
        with pytest.raises(TooManyRequests):
            for step in range(30):  # three recipes in turn, where two have room
                await forms.of(made(factors, seed=step % 3, value=float(step)), OTHER, "adapter")
        assert 6 <= step <= 10
    async with running(factors, per_minute=100, max_projection_bytes=3 * size) as forms:
        for step in range(30):
            await forms.of(made(factors, seed=step % 3, value=float(step)), OTHER, "adapter")


async def test_draws_are_charged_to_the_tenant_whoever_acts_for_it(factors: Factors) -> None:
    async with running(factors, per_minute=30) as forms:
        with pytest.raises(TooManyRequests, match="Tenant other") as caught:
            for seed in range(10):
                await forms.of(made(factors, seed=seed), WORKER, "adapter")
        assert caught.value.headers is not None and int(caught.value.headers["retry-after"]) >= 1
        with pytest.raises(TooManyRequests):
            await forms.of(made(factors, seed=20), OTHER, "adapter")
        await forms.of(made(factors, seed=20), OPEN_PRINCIPAL, "adapter")


async def test_one_draw_serves_all_that_want_it_and_is_paid_for_once(factors: Factors) -> None:
    async with running(factors, per_minute=10) as forms:  # one draw leaves nothing
        adapters = [made(factors, value=float(n)) for n in range(5)]
        adapters += [made(factors, convention="sqrt"), made(factors, groups=7, tying="structured")]
        told = await asyncio.gather(*(forms.of(adapter, OTHER, "adapter") for adapter in adapters))
        assert told == [engine_form(adapter, factors) for adapter in adapters]
        with pytest.raises(TooManyRequests):
            await forms.of(made(factors, seed=1), OTHER, "adapter")


async def test_draw_goes_on_when_its_client_leaves(factors: Factors) -> None:
    async with running(factors, per_minute=10) as forms:
        asked = asyncio.create_task(forms.of(made(factors), OTHER, "adapter"))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await forms.of(made(factors), OTHER, "adapter") == engine_form(made(factors), factors)


async def test_small_draw_does_not_wait_for_a_large_one(factors: Factors) -> None:
    async with running(factors) as forms:
        await forms.of(made(factors), OTHER, "adapter")  # the process is there
        large = asyncio.create_task(forms.of(made(factors, u=LARGE), OTHER, "adapter"))
        await asyncio.sleep(0)
        await forms.of(made(factors, seed=1), OPEN_PRINCIPAL, "adapter")
        assert not large.done()
        assert await large == engine_form(made(factors, u=LARGE), factors)


async def test_process_that_dies_costs_its_draw_and_no_other(factors: Factors) -> None:
    async with running(factors) as forms:
        await forms.of(made(factors), OTHER, "adapter")
        large = asyncio.create_task(forms.of(made(factors, u=LARGE), OTHER, "adapter"))
        await asyncio.sleep(0.02)
        for process in drawing_processes():
            process.kill()
        with pytest.raises(Unavailable, match="could not be drawn"):
            await large
        assert await forms.of(made(factors, seed=1), OTHER, "adapter") == engine_form(made(factors, seed=1), factors)
        assert len(drawing_processes()) == 1
    assert drawing_processes() == []


async def test_others_are_answered_while_a_recipe_is_drawn(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    def body(**adapter: object) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": "hi"}], "adapter": adapter}

    app = create_app(settings, engine, app_database)
    async with app.router.lifespan_context(app), client_of(app) as client:
        url = "/v1/chat/completions"
        large = asyncio.create_task(
            client.post(url, json=body(vector=[0.01] * LARGE, recipe={"groups": 1, "u": LARGE}))
        )
        while not drawing_processes():
            await asyncio.sleep(0.01)
        for _ in range(5):
            assert (await client.post(url, json=body(vector=[0.01] * 13))).status_code == 200
        assert not large.done()
        assert (await large).status_code == 200
