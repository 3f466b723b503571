"""What is removed when its time is over, by a clock that stands still, a few rows at a time, on both databases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.writes import Answer, AuditedWrites, Author
from server.batches.rows import COUNTS
from server.core.background import repeating
from server.core.months import month_start
from server.core.principal import DEFAULT_TENANT_ID, OPEN_PRINCIPAL
from server.core.settings import Settings
from server.db.batch_tables import BATCH_RESULTS, BATCHES
from server.db.database import Database
from server.db.response_tables import RESPONSE_EVENTS, RESPONSE_ITEMS, RESPONSE_ROOM, RESPONSES
from server.db.retention import DAY_S, KEY_GRACE_S, KEY_KEPT_S, Retention, Rule, rules_of
from server.db.tables import AUDIT_LOG, IDEMPOTENCY_KEYS, USAGE, USAGE_MONTHS
from server.db.training_tables import FILES, JOB_EVENTS, JOB_SAMPLES, JOBS
from server.inference.usage_meter import HOUR_S
from tests.server.support.process import Process

NOW = 2_000_000_000
DAYS = 10
BATCH = 3
RETENTION_DAYS = [name for name in Settings.model_fields if name.endswith("_retention_days")]


@pytest.fixture
def kept_10_days(settings: Settings) -> Settings:
    return settings.model_copy(update=dict.fromkeys(RETENTION_DAYS, DAYS))


def retention(database: Database, settings: Settings, now: float = NOW) -> Retention:
    return Retention(database, rules_of(settings), clock=lambda: now, batch=BATCH)


def add_audit(database: Database, *ages_s: int) -> None:
    for age in ages_s:
        writes = AuditedWrites(database, clock=lambda age=age: NOW - age)  # type: ignore[misc]
        writes.run(Author(OPEN_PRINCIPAL), "write", f"{age}", lambda _: Answer({}))


def add_usage(database: Database, hour: int, count: int) -> None:
    row = {"hour": hour, "tenant_id": DEFAULT_TENANT_ID, "key_id": "", "requests": 1}
    rows = [{**row, "adapter": f"a{n}", "prompt_tokens": 1, "completion_tokens": 1} for n in range(count)]
    with database.write() as connection:
        connection.execute(USAGE.insert(), rows)


def add_job(database: Database, name: str, *, status: str, finished_at: int | None, events: int) -> None:
    tenant = {"tenant_id": DEFAULT_TENANT_ID, "created_at": 1}
    file = {"id": f"file-{name}", "purpose": "fine-tune", "filename": "f", "bytes": 1, "sha256": "", "location": name}
    names = ("model", "factors", "method", "method_type", "config", "metadata", "integrations", "adapter_name")
    text = dict.fromkeys(names, "{}")
    numbers = {"seed": 0, "trained_tokens": 0, "attempts": 0, "result_files": "[]"}
    job = {"id": name, "status": status, "finished_at": finished_at, "training_file": f"file-{name}", **text, **numbers}
    event = {"job_id": name, "created_at": 1, "level": "info", "message": "m", "type": "message", "data": "{}"}
    with database.write() as connection:
        connection.execute(FILES.insert().values(**file, **tenant))
        connection.execute(JOBS.insert().values(**job, **tenant))
        connection.execute(JOB_EVENTS.insert(), [event] * events)
        sample = {"job_id": name, "step": 1, "split": "train", "created_at": 1, "bytes": 2, "data": "{}"}
        connection.execute(JOB_SAMPLES.insert(), [{**sample, "place": place} for place in range(events)])


def add_batch(database: Database, name: str, *, status: str, ended_at: int | None, answers: int) -> None:
    file = {"id": f"file-{name}", "purpose": "batch", "filename": "f", "bytes": 1, "sha256": "", "location": name}
    of_tenant = {"tenant_id": DEFAULT_TENANT_ID, "created_at": 1}
    zero = dict.fromkeys(COUNTS, 0)
    batch = {"id": name, "status": status, "endpoint": "/v1/completions", "input_file_id": file["id"], "expires_at": 1}
    ended = {} if ended_at is None else {f"{status}_at": ended_at}
    with database.write() as connection:
        connection.execute(FILES.insert().values(**file, **of_tenant))
        connection.execute(BATCHES.insert().values(**batch, **zero, **of_tenant, **ended))
        for line in range(answers):
            connection.execute(BATCH_RESULTS.insert().values(batch_id=name, line=line, is_error=False, data="{}"))


def add_responses(database: Database, *ages_s: int, events: int = 0) -> None:
    tenant = {"tenant_id": DEFAULT_TENANT_ID}
    with database.write() as connection:
        insert = database.insert(RESPONSE_ROOM).values(**tenant, bytes=10 * len(ages_s))
        connection.execute(insert.on_conflict_do_nothing())
        for number, age in enumerate(ages_s):
            row = {"id": f"resp-{number}", "created_at": NOW - age, "status": "completed", "background": False}
            connection.execute(RESPONSES.insert().values(**row, **tenant, bytes=10, input="[]", response="{}"))
            item = {"item_id": f"item-{number}", "response_id": row["id"]}
            connection.execute(RESPONSE_ITEMS.insert().values(**item, **tenant))
            for first in range(events):
                event = {"response_id": row["id"], "first": first, "events": b""}
                connection.execute(RESPONSE_EVENTS.insert().values(event))


def values(database: Database, column: sa.Column[Any]) -> list[Any]:
    with database.read() as connection:
        return sorted(connection.execute(sa.select(column)).scalars())


async def test_audit_goes_when_it_is_too_old_and_not_before(database: Database, kept_10_days: Settings) -> None:
    limit = DAYS * DAY_S
    add_audit(database, *[limit + 100 + n for n in range(7)], limit + 1, limit, limit - 1, 0)
    await retention(database, kept_10_days).sweep(asyncio.Event())
    assert sorted(map(int, values(database, AUDIT_LOG.c.target))) == [0, limit - 1, limit]
    await retention(database, kept_10_days, NOW + 1).sweep(asyncio.Event())
    assert sorted(map(int, values(database, AUDIT_LOG.c.target))) == [0, limit - 1]


async def test_a_line_of_a_gateway_whose_clock_is_behind_does_not_keep_the_others(
    database: Database, kept_10_days: Settings
) -> None:
    add_audit(database, 5, *[DAYS * DAY_S + 5 + n for n in range(7)], 0)
    await retention(database, kept_10_days).sweep(asyncio.Event())
    assert sorted(map(int, values(database, AUDIT_LOG.c.target))) == [0, 5]


async def test_usage_goes_by_the_hour(database: Database, kept_10_days: Settings) -> None:
    oldest_kept = NOW - DAYS * DAY_S
    first = -(-oldest_kept // HOUR_S) * HOUR_S
    for hour, count in ((first - 2 * HOUR_S, 5), (first - HOUR_S, 4), (first, 2), (NOW // HOUR_S * HOUR_S, 1)):
        add_usage(database, hour, count)
    await retention(database, kept_10_days).sweep(asyncio.Event())
    assert values(database, USAGE.c.hour) == [first, first, NOW // HOUR_S * HOUR_S]


async def test_months_of_usage_go_when_they_have_ended_and_the_running_one_never(
    database: Database, settings: Settings
) -> None:
    months = [month_start(NOW)]
    while len(months) < 4:
        months.append(month_start(months[-1] - 1))
    with database.write() as connection:
        rows = [{"tenant_id": DEFAULT_TENANT_ID, "month": month, "tokens": 1} for month in months]
        connection.execute(USAGE_MONTHS.insert(), rows)
    for days, left in ((75, months[:3]), (31, months[:2]), (1, months[:1])):
        await retention(database, settings.model_copy(update={"usage_retention_days": days})).sweep(asyncio.Event())
        assert values(database, USAGE_MONTHS.c.month) == sorted(left)


async def test_samples_and_events_have_times_of_their_own(database: Database, settings: Settings) -> None:
    add_job(database, "old", status="succeeded", finished_at=NOW - DAYS * DAY_S - 1, events=2)
    days = {"job_event_retention_days": DAYS + 1, "job_sample_retention_days": DAYS}
    await retention(database, settings.model_copy(update=days)).sweep(asyncio.Event())
    assert values(database, JOB_EVENTS.c.job_id) == ["old", "old"]
    assert values(database, JOB_SAMPLES.c.job_id) == []


async def test_events_and_samples_go_some_time_after_their_job_has_ended(
    database: Database, kept_10_days: Settings
) -> None:
    old = NOW - DAYS * DAY_S
    add_job(database, "old", status="succeeded", finished_at=old - 1, events=7)
    add_job(database, "older", status="failed", finished_at=old - 1000, events=2)
    add_job(database, "young", status="cancelled", finished_at=old, events=2)
    add_job(database, "running", status="running", finished_at=None, events=1)
    await retention(database, kept_10_days).sweep(asyncio.Event())
    assert values(database, JOB_EVENTS.c.job_id) == ["running", "young", "young"]
    assert values(database, JOB_SAMPLES.c.job_id) == ["running", "young", "young"]
    assert values(database, JOBS.c.id) == ["old", "older", "running", "young"]


async def test_responses_go_with_their_items_and_events_and_give_back_their_room(
    database: Database, kept_10_days: Settings
) -> None:
    limit = DAYS * DAY_S
    add_responses(database, *[limit + 100 + n for n in range(7)], limit + 1, limit, 0, events=3)
    await retention(database, kept_10_days).sweep(asyncio.Event())
    assert values(database, RESPONSES.c.id) == values(database, RESPONSE_ITEMS.c.response_id) == ["resp-8", "resp-9"]
    assert values(database, RESPONSE_EVENTS.c.response_id) == ["resp-8"] * 3 + ["resp-9"] * 3
    assert values(database, RESPONSE_ROOM.c.bytes) == [20]


async def test_idempotency_keys_go_a_little_after_their_time(database: Database, settings: Settings) -> None:
    for number, age in enumerate([KEY_KEPT_S + KEY_GRACE_S + 1] * 7 + [KEY_KEPT_S + KEY_GRACE_S, 0]):
        writes = AuditedWrites(database, clock=lambda age=age: NOW - age)  # type: ignore[misc]
        writes.run(Author(OPEN_PRINCIPAL, idempotency_key=f"{number}"), "write", "t", lambda _: Answer({}))
    await retention(database, settings).sweep(asyncio.Event())
    assert values(database, IDEMPOTENCY_KEYS.c.key) == ["7", "8"]


def test_no_transaction_removes_more_than_a_batch(database: Database, kept_10_days: Settings) -> None:
    limit = DAYS * DAY_S
    add_audit(database, *[limit + 100] * 7)
    add_usage(database, NOW // HOUR_S * HOUR_S - limit - HOUR_S, 7)
    add_job(database, "old", status="succeeded", finished_at=NOW - limit - 1, events=7)
    add_responses(database, *[limit + 100] * 7)
    for number in range(7):
        add_batch(database, f"b{number}", status="completed", ended_at=NOW - limit - 1, answers=0)
        writes = AuditedWrites(database, clock=lambda: NOW - 2 * KEY_KEPT_S)
        writes.run(Author(OPEN_PRINCIPAL, idempotency_key=f"{number}"), "write", "t", lambda _: Answer({}))
    sweep = retention(database, kept_10_days)
    ended = month_start(NOW)
    for _ in range(7):
        ended = month_start(ended - 1)
        with database.write() as connection:
            connection.execute(
                USAGE_MONTHS.insert().values(tenant_id=DEFAULT_TENANT_ID, month=ended - 86_400, tokens=1)
            )
    for rule in rules_of(kept_10_days):
        before = NOW - rule.kept_s
        assert [sweep.remove_some(rule, before) for _ in range(4)] == [3, 3, 1, 0], rule.what


async def test_gateways_that_sweep_at_once_remove_every_row_once(
    process: Process, other_process: Process, kept_10_days: Settings
) -> None:
    limit = DAYS * DAY_S
    add_audit(process.database, *[limit + 100] * 40, 0)
    add_usage(process.database, NOW // HOUR_S * HOUR_S - limit - HOUR_S, 40)
    add_job(process.database, "old", status="succeeded", finished_at=NOW - limit - 1, events=40)
    sweeps = [retention(gateway.database, kept_10_days) for gateway in (process, other_process)]
    await asyncio.gather(*(sweep.sweep(asyncio.Event()) for sweep in sweeps))
    assert values(process.database, AUDIT_LOG.c.target) == ["0"]
    assert values(process.database, USAGE.c.hour) == values(process.database, JOB_EVENTS.c.id) == []


async def test_days_of_zero_keep_for_ever(database: Database, settings: Settings) -> None:
    days = dict.fromkeys(RETENTION_DAYS, 0)
    add_audit(database, NOW)
    add_usage(database, 0, 1)
    add_job(database, "old", status="succeeded", finished_at=1, events=1)
    await retention(database, settings.model_copy(update=days)).sweep(asyncio.Event())
    assert [len(values(database, column)) for column in (AUDIT_LOG.c.id, USAGE.c.hour, JOB_EVENTS.c.id)] == [1, 1, 1]


async def test_what_fails_stays_and_stops_nothing_else(database: Database) -> None:
    def fail(_connection: sa.Connection, _before: int, _most: int) -> int:
        raise sa.exc.OperationalError("DELETE", {}, Exception("disk full"))

    rules = (Rule("what fails", 1, fail), rules_of(Settings())[0])
    add_audit(database, 366 * DAY_S)
    await Retention(database, rules, clock=lambda: NOW).sweep(asyncio.Event())
    assert values(database, AUDIT_LOG.c.id) == []


async def test_a_sweep_ends_behind_the_transaction_in_which_it_is_told_to(database: Database) -> None:
    ended, transactions = asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    def delete(_connection: sa.Connection, _before: int, most: int) -> int:
        nonlocal transactions
        transactions += 1
        if transactions == 2:
            asyncio.run_coroutine_threadsafe(set_ended(), loop).result()
        return most

    async def set_ended() -> None:
        ended.set()

    await Retention(database, (Rule("without end", 1, delete),), clock=lambda: NOW).sweep(ended)
    assert transactions == 2


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def test_the_block_ends_when_the_work_in_its_thread_has(gate: threading.Event) -> None:
    began, left = asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    async def work(ended: asyncio.Event) -> None:
        began.set()
        await asyncio.to_thread(gate.wait)
        ends.append("work")
        assert ended.is_set()

    async def block() -> None:
        async with repeating(work, first_s=0, every_s=3600):
            await began.wait()
            left.set()
        ends.append("block")

    running = asyncio.create_task(block())
    await left.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert ends == [] and not running.done()
    gate.set()
    await running
    assert ends == ["work", "block"]


async def test_work_is_done_again_and_again() -> None:
    times = 0
    thrice = asyncio.Event()

    async def work(_ended: asyncio.Event) -> None:
        nonlocal times
        times += 1
        if times == 3:
            thrice.set()

    async with repeating(work, first_s=0, every_s=0):
        await asyncio.wait_for(thrice.wait(), 60)


async def test_a_server_sweeps_as_long_as_it_runs(app: FastAPI) -> None:
    def is_sweeping() -> bool:
        return Retention.sweep.__qualname__ in {task.get_name() for task in asyncio.all_tasks()}

    async with app.router.lifespan_context(app):
        assert is_sweeping()
    assert not is_sweeping()


async def test_batches_go_some_time_after_their_end_with_answers_left_behind(
    database: Database, kept_10_days: Settings
) -> None:
    old = NOW - DAYS * DAY_S - 1
    for status, ended_at in (("completed", old), ("cancelled", old), ("failed", old + 1), ("in_progress", None)):
        add_batch(database, status, status=status, ended_at=ended_at, answers=BATCH + 1)
    await retention(database, kept_10_days).sweep(asyncio.Event())
    assert values(database, BATCHES.c.id) == ["failed", "in_progress"]
    assert set(values(database, BATCH_RESULTS.c.batch_id)) == {"failed", "in_progress"}
