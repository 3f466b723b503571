"""Tenants have as many batches on the gateways as each other, and take turns where there are too many of them."""

from __future__ import annotations

import sqlalchemy as sa

from server.batches import leases
from server.batches.answers import Result, Usage
from server.batches.rows import cancel_batch
from server.batches.turns import TURN_S, claim, gives_way
from server.core.principal import DEFAULT_TENANT_ID
from server.db.batch_tables import BATCHES
from tests.server.batches.conftest import Batches

OURS = "gateway-a"


def claimed(batches: Batches, owner: str = OURS) -> str | None:
    found = batches.database.transact(lambda to: claim(to, owner, 600))
    return None if found is None else found.row.id


def given_up(batches: Batches, had_s: dict[str, float]) -> str | None:
    with batches.database.read() as connection:
        return gives_way(connection, OURS, had_s)


def release(batches: Batches, batch_id: str, owner: str = OURS) -> None:
    batches.database.transact(lambda to: leases.release(to, batch_id, owner, counted=False))


def test_a_tenant_with_many_batches_gives_way_to_one_that_waits(batches: Batches) -> None:
    many = [batches.new() for _ in range(5)]
    assert [claimed(batches) for _ in range(4)] == many[:4], "the oldest first"
    had_s = dict.fromkeys(many[:4], 1.0)
    assert given_up(batches, dict.fromkeys(many[:4], 10 * TURN_S)) is None, "its own are no reason"
    few = batches.new(batches.new_tenant())
    assert given_up(batches, had_s) == many[3]
    release(batches, many[3])
    assert claimed(batches) == few
    del had_s[many[3]]
    assert given_up(batches, had_s | {few: 10 * TURN_S}) is None, "nobody waits but the one with the most"


def test_tenants_take_turns_where_there_are_more_than_places(batches: Batches) -> None:
    made = [batches.new(batches.new_tenant()) for _ in range(3)]
    assert [claimed(batches), claimed(batches)] == made[:2]
    had_s = {made[0]: TURN_S - 1, made[1]: 1.0}
    assert given_up(batches, had_s) is None
    assert given_up(batches, had_s | {made[0]: TURN_S}) == made[0]
    release(batches, made[0])
    assert claimed(batches) == made[2], "whose turn was never, before the one that is older"
    assert given_up(batches, {made[1]: TURN_S, made[2]: 1.0}) == made[1]


def test_a_batch_that_was_cancelled_while_its_gateway_was_dead_is_cancelled_by_the_next(batches: Batches) -> None:
    batch_id = batches.new()
    assert claimed(batches, "killed") == batch_id
    batches.database.transact(lambda to: cancel_batch(to, DEFAULT_TENANT_ID, batch_id))
    assert claimed(batches) is None, "the dead one's lease is not over"
    batches.database.transact(lambda to: to.execute(BATCHES.update().values(lease_expires_at=1)))
    found = batches.database.transact(lambda to: claim(to, OURS, 600))
    assert found is not None and found.wanted == "cancel"


def test_answers_that_waited_through_an_outage_are_stored_however_many_they_are(batches: Batches) -> None:
    batch_id = batches.new()
    assert claimed(batches) == batch_id
    results = [Result(number, False, "{}", Usage()) for number in range(40_000)]

    def record(to: sa.Connection) -> leases.Standing:
        return leases.record(to, batches.database, batch_id, OURS, results, 600, 10**9)

    assert batches.database.transact(record).row.completed == 40_000
    assert batches.database.transact(record).row.completed == 40_000, "and counted once"
