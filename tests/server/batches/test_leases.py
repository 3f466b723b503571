"""What is stored of a batch on the gateway that has it: attempts, how it ends, and for whom its lines are asked."""

from __future__ import annotations

import time

import pytest

from server.auth.api_keys import NewKey, create_key
from server.auth.tenants import find_tenant
from server.batches import leases
from server.batches.answers import Result, Usage
from server.batches.rows import cancel_batch
from server.batches.states import Outcome
from server.batches.turns import claim
from server.core.errors import TooManyRequests
from server.core.months import month_start
from server.core.principal import DEFAULT_TENANT_ID, DEFAULT_TENANT_NAME, Limits
from server.db.tables import USAGE_MONTHS
from tests.server.batches.conftest import Batches

OURS = "gateway-a"


def claimed(batches: Batches) -> leases.Standing:
    found = batches.database.transact(lambda to: claim(to, OURS, 600))
    assert found is not None
    return found


def release(batches: Batches, batch_id: str, *, counted: bool) -> None:
    batches.database.transact(lambda to: leases.release(to, batch_id, OURS, counted=counted))


def test_attempts_are_those_that_failed_since_the_last_answer(batches: Batches) -> None:
    batch_id = batches.new()
    attempts = []
    for counted in (True, False, False, True):
        attempts.append(claimed(batches).row.attempts)
        release(batches, batch_id, counted=counted)
    assert attempts == [1, 2, 2, 2], "giving a batch up is no failure"
    assert claimed(batches).row.attempts == 3
    results = [Result(1, False, "{}", Usage())]
    stored = batches.database.transact(
        lambda to: leases.record(to, batches.database, batch_id, OURS, results, 600, 10**9)
    )
    assert stored.row.attempts == 0


@pytest.mark.parametrize(("settled", "ends"), [("completed", "cancelled"), ("expired", "expired")])
def test_a_batch_whose_last_answer_came_while_it_was_cancelled_is_cancelled(
    batches: Batches, settled: Outcome, ends: str
) -> None:
    batch_id = batches.new()
    claimed(batches)
    batches.database.transact(lambda to: cancel_batch(to, DEFAULT_TENANT_ID, batch_id))
    row = batches.database.transact(lambda to: leases.settle(to, batch_id, OURS, settled))
    assert row is not None and (row.status, row.outcome) == ("cancelling", ends)


def test_lines_are_asked_within_the_quotas_of_the_key_and_the_months_tokens_of_the_tenant(batches: Batches) -> None:
    batch_id, this_month = batches.new(), month_start(int(time.time()))
    months = {month_start(this_month - 1): 70, this_month: 5}
    with batches.database.write() as connection:
        key = NewKey("key_1", "sk-tl-1", "of a test", ["infer"], None, Limits(1, 2, 3))
        create_key(connection, find_tenant(connection, DEFAULT_TENANT_NAME), key)
        leases.change(connection, batch_id, key_id=key.id)
        rows = [{"tenant_id": DEFAULT_TENANT_ID, "month": month, "tokens": used} for month, used in months.items()]
        connection.execute(USAGE_MONTHS.insert(), rows)
    principal = claimed(batches).principal
    assert principal is not None
    assert (principal.key_id, principal.key_limits) == (key.id, key.limits)
    assert (principal.tenant.id, principal.tenant.month_tokens) == (DEFAULT_TENANT_ID, 5)


def test_batches_of_a_tenant_leave_room_for_anothers(batches: Batches) -> None:
    for _ in range(2):
        batches.new(batches.new_tenant())
    batches.new(most=1)
    with pytest.raises(TooManyRequests, match="There are 1 batches"):
        batches.new(most=1)
