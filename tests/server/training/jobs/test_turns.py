"""Which running job gives its place to one that waits, on both databases, and that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from adapters.vector.recipe import Recipe
from server.core.clock import following
from server.core.principal import DEFAULT_TENANT_ID
from server.db.tables import TENANTS
from server.training.jobs.config import EvolutionConfig
from server.training.jobs.progress import GIVES_WAY
from server.training.jobs.turns import CLAIM_LOCK, TURN_S, WAIT_S
from tests.server.support.acting import new_tenant
from tests.server.support.fake_engine import MODULES
from tests.server.support.training_process import TrainingProcess


@dataclass
class Clock:
    """Seconds since 1970."""

    at: int = 1_000_000

    def __call__(self) -> int:
        return self.at


def other_tenant(gateway: TrainingProcess, name: str = "other", weight: float = 1.0) -> int:
    tenant = new_tenant(gateway.database, name).id
    gateway.do(lambda to: to.execute(TENANTS.update().where(TENANTS.c.id == tenant).values(weight=weight)))
    return tenant


def step(gateway: TrainingProcess, clock: Clock, job_id: str, number: int, worker: str = "w") -> str:
    """What the worker hears of the job behind the step, with the clock at its time."""
    with following(clock):
        gateway.claim(worker, 0, (job_id,))
        return gateway.report(worker, job_id, number)[0].wanted


def test_a_tenant_with_many_jobs_gives_one_place_to_another_that_waits(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        many = [gateway.new_job() for _ in range(5)]
        assert gateway.claimed("w", 4) == many[:4]
        few = gateway.new_job(other_tenant(gateway))
    clock.at += TURN_S - 1
    assert step(gateway, clock, many[0], 1) == "run", "its turn is not over"
    clock.at += 1
    with following(clock):
        gateway.claim("w", 0, tuple(many[:4]))
    assert step(gateway, clock, many[0], 2) == "lost"
    assert gateway.status(many[0]) == "queued"
    assert f"{GIVES_WAY} It goes on behind step 2 in its next turn." in gateway.events(many[0])
    with following(clock):
        assert gateway.claimed("w", 1) == [few]
    assert step(gateway, clock, many[1], 1) == "run", "nobody waits but the one with the most"
    with following(clock):
        (resumed,) = gateway.claim("w", 1).jobs
    assert resumed.id == many[0] and resumed.checkpoint is not None and resumed.checkpoint.step == 2
    assert resumed.attempts == 1, "to give way is no failed attempt"


def test_tenants_take_turns_where_there_are_more_than_places(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        ours, theirs = gateway.new_job(), gateway.new_job(other_tenant(gateway))
        assert gateway.claimed("w") == [ours]
    clock.at += TURN_S
    assert step(gateway, clock, ours, 1) == "lost"
    with following(clock):
        assert gateway.claimed("w") == [theirs], "whose turn was never, before the one that is older"
    clock.at += TURN_S
    assert step(gateway, clock, theirs, 1) == "lost"
    with following(clock):
        assert gateway.claimed("w") == [ours]


def test_a_tenant_of_many_short_jobs_keeps_no_long_one_from_its_next_turn(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        long, other = gateway.new_job(), other_tenant(gateway)
        assert gateway.claimed("w") == [long]
        short = [gateway.new_job(other) for _ in range(3)]
    clock.at += TURN_S
    assert step(gateway, clock, long, 1) == "lost"
    with following(clock):
        assert gateway.claimed("w") == [short[0]]
        clock.at += 1
        gateway.succeed("w", short[0])
        assert gateway.claimed("w") == [long], "the others have just had their turn"


def test_of_jobs_that_end_a_step_together_as_many_give_way_as_tenants_wait(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        many = [gateway.new_job() for _ in range(4)]
        assert gateway.claimed("w", 4) == many
        other = other_tenant(gateway)
        few = [gateway.new_job(other) for _ in range(2)]
    clock.at += TURN_S
    assert [step(gateway, clock, job, 1) for job in many] == ["lost", "run", "run", "run"]
    with following(clock):
        assert gateway.claimed("w") == few[:1]
    assert step(gateway, clock, many[1], 2) == "lost", "a worker has taken the place that was free"
    with following(clock):
        assert gateway.claimed("w") == few[1:]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gateway, job: gateway.set(job, tenant_id=DEFAULT_TENANT_ID),
        lambda gateway, job: gateway.set(job, factors="b" * 64),
        lambda gateway, job: gateway.set(job, method_type="evolution"),
        lambda gateway, job: gateway.set(job, status="paused"),
        lambda gateway, job: gateway.set(job, lease_owner="v", lease_expires_at=2**40),
        lambda gateway, job: gateway.set(job, lease_owner="v", lease_expires_at=1, attempts=2),
        lambda gateway, job: gateway.set(job, created_at=1_000_000 + TURN_S - WAIT_S + 1),
        lambda gateway, job: gateway.do(lambda to: to.execute(TENANTS.update().values(disabled_at=1))),
    ],
    ids=["ours", "factors", "method", "paused", "leased", "suspect", "new", "disabled"],
)
def test_a_job_gives_way_only_to_one_that_its_worker_could_take(
    gateway: TrainingProcess, wrong: Callable[[TrainingProcess, str], None]
) -> None:
    clock = Clock()
    with following(clock):
        ours, theirs = gateway.new_job(), gateway.new_job(other_tenant(gateway))
        assert gateway.claimed("w") == [ours]
    wrong(gateway, theirs)
    clock.at += TURN_S
    assert step(gateway, clock, ours, 1) == "run"


def test_a_supervised_job_gives_way_to_one_of_reinforcement_and_evolution_to_its_like(gateway: TrainingProcess) -> None:
    clock, evolution = Clock(), EvolutionConfig(recipe=Recipe(groups=len(MODULES)).to_dict())
    other = other_tenant(gateway)
    with following(clock):
        supervised, evolved = gateway.new_job(), gateway.new_job(config=evolution)
        gateway.set(supervised, method_type="supervised")
        assert gateway.claimed("w", 2) == [supervised, evolved]
        gateway.new_job(other)
    clock.at += TURN_S
    assert step(gateway, clock, evolved, 1) == "run"
    assert step(gateway, clock, supervised, 1) == "lost"


def test_turns_are_by_weight(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        gateway.do(lambda to: to.execute(TENANTS.update().values(weight=3.0)))
        mine = [gateway.new_job() for _ in range(3)]
        assert gateway.claimed("w", 3) == mine
        other = other_tenant(gateway)
        gateway.new_job(other)
        gateway.new_job(other)
    clock.at += TURN_S
    with following(clock):
        gateway.claim("w", 0, tuple(mine))
    assert step(gateway, clock, mine[0], 1) == "lost", "three jobs of three thirds, beside one of one"
    with following(clock):
        assert len(gateway.claimed("w")) == 1
    assert step(gateway, clock, mine[1], 1) == "run", "two of three thirds are not more than two of one"


def test_a_tenant_of_more_weight_has_longer_turns_but_not_for_ever(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        gateway.do(lambda to: to.execute(TENANTS.update().values(weight=3.0)))
        ours, theirs = gateway.new_job(), gateway.new_job(other_tenant(gateway))
        assert gateway.claimed("w") == [ours]
    clock.at += 3 * TURN_S - 1
    assert step(gateway, clock, ours, 1) == "run"
    clock.at += 1
    assert step(gateway, clock, ours, 2) == "lost"
    with following(clock):
        assert gateway.claimed("w") == [theirs]
    clock.at += TURN_S
    assert step(gateway, clock, theirs, 1) == "lost"
    with following(clock):
        assert gateway.claimed("w") == [ours]


def test_the_last_step_ends_the_job_and_a_paused_job_stays_paused(gateway: TrainingProcess) -> None:
    clock = Clock()
    with following(clock):
        last, paused = gateway.new_job(), gateway.new_job()
        assert gateway.claimed("w", 2) == [last, paused]
        gateway.new_job(other_tenant(gateway))
        gateway.set(last, total_steps=1)
        gateway.set(paused, status="paused")
    clock.at += TURN_S
    assert step(gateway, clock, last, 1) == "run"
    assert step(gateway, clock, paused, 1) == "pause"
    with following(clock):
        assert gateway.succeed("w", last).status == "succeeded"


def test_a_job_gives_way_behind_a_later_step_while_a_worker_claims(gateway: TrainingProcess) -> None:
    if gateway.database.is_sqlite:
        pytest.skip("SQLite has one writer")
    clock = Clock()
    with following(clock):
        ours = gateway.new_job()
        assert gateway.claimed("w") == [ours]
        gateway.new_job(other_tenant(gateway))
    clock.at += TURN_S
    with gateway.database.write() as claiming:
        claiming.execute(sa.select(sa.func.pg_advisory_xact_lock(CLAIM_LOCK)))
        with following(clock):
            assert gateway.report("w", ours, 1)[0].wanted == "run"
    assert step(gateway, clock, ours, 2) == "lost"
