"""What workers report, on both databases: once, in order, all or nothing; and what is kept of it."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from server.auth.tenants import create_tenant, update_tenant
from server.core.errors import ApiError, BadRequest
from server.core.names import parse_reference
from server.core.principal import DEFAULT_TENANT_ID
from server.db.database import Database
from server.db.tables import ADAPTER_VERSIONS, ADAPTERS, TENANTS
from server.db.training_tables import JOB_CHECKPOINTS, JOBS
from server.registry.alias_changes import set_alias
from server.registry.deletion import purge
from server.training.jobs.checkpoints import list_checkpoints
from server.training.jobs.lifecycle import get_job, pause_jobs_of_disabled, resume_job
from server.training.jobs.progress import give_back
from tests.server.support.fake_engine import MODULES
from tests.server.support.training_kit import vector
from tests.server.support.training_process import TrainingProcess

HOLD_A_REPORT_AND_AN_END_OPEN = """
import sys
from server.db.database import Database
from tests.server.support.training_process import TrainingProcess

database = Database(sys.argv[1])
with database.write() as connection:
    process = TrainingProcess(database)
    process.do = lambda do: do(connection)
    process.report("w", sys.argv[2], 1, 0.5)
    process.succeed("w", sys.argv[2])
    print("written", flush=True)
    sys.stdin.read()
"""

WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.fixture
def job_id(gateway: TrainingProcess) -> str:
    """A job that the worker "w" has."""
    job_id = gateway.new_job()
    assert gateway.claimed("w") == [job_id]
    return job_id


def everything(gateway: TrainingProcess, *, without: tuple[str, ...] = ()) -> list[Any]:
    """All that is stored of jobs and adapters."""

    def read(connection: sa.Connection) -> list[Any]:
        tables = (JOBS, JOB_CHECKPOINTS, ADAPTERS, ADAPTER_VERSIONS)
        columns = [[column for column in table.c if column.name not in without] for table in tables]
        return [connection.execute(sa.select(*some)).all() for some in columns]

    return gateway.do(read)


def adapters(gateway: TrainingProcess) -> list[str]:
    """The names of adapters that there are."""
    live = sa.select(ADAPTERS.c.name).where(ADAPTERS.c.latest_version.is_not(None)).order_by(ADAPTERS.c.id)
    return list(gateway.do(lambda to: to.execute(live).scalars().all()))


def published(gateway: TrainingProcess, job_id: str) -> list[int]:
    """The steps of checkpoints that can be served."""
    rows, _ = gateway.do(lambda to: list_checkpoints(to, job_id, after=None, limit=100))
    return [row.step for row in rows][::-1]


def test_step_that_is_reported_again_changes_nothing(gateway: TrainingProcess, job_id: str) -> None:
    first, is_news = gateway.report("w", job_id, 1, 0.5)
    assert is_news
    before, events = everything(gateway, without=("lease_expires_at",)), gateway.events(job_id)
    again, is_news = gateway.report("w", job_id, 1, 0.7, vector=vector(9))
    assert (again.wanted, is_news) == (first.wanted, False)
    assert everything(gateway, without=("lease_expires_at",)) == before
    assert gateway.events(job_id) == events


def test_steps_are_reported_in_order(gateway: TrainingProcess, job_id: str) -> None:
    with pytest.raises(BadRequest) as early:
        gateway.report("w", job_id, 2)
    assert (early.value.code, early.value.param) == ("unexpected_step", "step")
    gateway.report("w", job_id, 0)
    gateway.report("w", job_id, 1)
    with pytest.raises(BadRequest, match="step is 3, expected 2"):
        gateway.report("w", job_id, 3)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"vector": vector(1, 12)},
        {"vector": base64.b64encode(np.full(len(MODULES), np.nan, "<f4").tobytes()).decode()},
        {"vector": base64.b64encode(np.full(len(MODULES), 3.4e38, "<f4").tobytes()).decode()},  # infinite in bfloat16
        {"vector": "not base64!"},
        {"optimizer": "not base64!"},
    ],
)
def test_report_that_cannot_be_kept_leaves_nothing(
    gateway: TrainingProcess, job_id: str, checkpoint: dict[str, str]
) -> None:
    before = everything(gateway)
    with pytest.raises(ApiError) as refused:
        gateway.report("w", job_id, 1, 0.5, **checkpoint)
    assert refused.value.param == f"checkpoint.{next(iter(checkpoint))}"
    assert everything(gateway) == before
    assert gateway.events(job_id)[-1] == "Fine-tuning job started"


def test_best_three_and_the_last_can_be_served(gateway: TrainingProcess, job_id: str) -> None:
    rewards = [0.1, 0.9, None, 0.5, 0.7, 0.2, None, 0.3]
    for step, reward in enumerate(rewards, 1):
        gateway.report("w", job_id, step, reward)
    # 0.9, 0.7, 0.5 and the last one; an unpublished step between them is not kept.
    assert published(gateway, job_id) == [2, 4, 5, 8]
    name = f"ft:{job_id}:ckpt-step-"
    assert adapters(gateway) == [f"{name}{step}" for step in (2, 4, 5, 8)]
    rows = gateway.do(lambda to: to.execute(sa.select(JOB_CHECKPOINTS).order_by(JOB_CHECKPOINTS.c.step)).all())
    assert [(row.step, row.optimizer) for row in rows] == [(2, b""), (4, b""), (5, b""), (8, b"adam")]
    assert [json.loads(row.state) for row in rows] == [{}, {}, {}, {"step": 8}]
    gateway.report("w", job_id, 9)
    assert published(gateway, job_id) == [2, 4, 5, 8]
    gateway.expire(job_id)
    (job,) = gateway.claim("v").jobs
    assert job.checkpoint is not None and job.checkpoint.step == 9


def test_checkpoint_that_its_owner_uses_or_removed_is_left_alone(gateway: TrainingProcess, job_id: str) -> None:
    gateway.report("w", job_id, 1, 0.1)
    gateway.report("w", job_id, 2, 0.2)
    name = f"ft:{job_id}:ckpt-step-"
    tagged, removed = (parse_reference(f"{name}{step}", "name") for step in (1, 2))
    gateway.do(lambda to: set_alias(to, DEFAULT_TENANT_ID, tagged, "mine", {1: 100.0}))
    gateway.do(lambda to: purge(to, DEFAULT_TENANT_ID, removed))
    for step in (3, 4, 5):
        gateway.report("w", job_id, step, 0.9)
    assert published(gateway, job_id) == [3, 4, 5]
    assert adapters(gateway) == [f"{name}{step}" for step in (1, 3, 4, 5)]


def test_end_is_told_twice_and_happens_once(gateway: TrainingProcess, job_id: str) -> None:
    first = gateway.succeed("w", job_id)
    before = everything(gateway)
    assert (first.status, first.fine_tuned_model) == ("succeeded", f"ft:{job_id}")
    assert gateway.succeed("w", job_id) == first
    assert everything(gateway) == before
    with pytest.raises(BadRequest) as late:
        gateway.report("w", job_id, 1)
    assert late.value.code == "lease_lost"


@pytest.mark.parametrize(
    ("told", "decided", "status"),
    [
        ("stalled", None, "paused"),
        ("failed", None, "failed"),
        ("failed", "cancelled", "cancelled"),
        ("paused", "paused", "paused"),
        ("paused", None, "queued"),  # resumed before the worker told it
        ("cancelled", "cancelled", "cancelled"),
    ],
)
def test_any_end_is_told_twice_and_happens_once(
    gateway: TrainingProcess, job_id: str, told: str, decided: str | None, status: str
) -> None:
    if decided is not None:
        gateway.set(job_id, status=decided)
    event = {"level": "info", "message": "It ends."}
    first = gateway.finish("w", job_id, told, events=[event])
    before, events = everything(gateway), gateway.events(job_id)
    assert first.status == status
    assert gateway.finish("w", job_id, told, events=[event]) == first
    assert (everything(gateway), gateway.events(job_id)) == (before, events)


def test_a_result_that_could_not_be_published_is_told_twice(
    gateway: TrainingProcess, job_id: str, database: Database
) -> None:
    gateway.do(lambda to: to.execute(TENANTS.update().values(max_adapters=0)))
    for _ in range(2):
        assert gateway.succeed("w", job_id).status == "paused"
    assert sum("cannot be published" in message for message in gateway.events(job_id)) == 1


def test_an_end_that_is_not_how_the_job_ended_is_of_a_lost_lease(gateway: TrainingProcess, job_id: str) -> None:
    gateway.succeed("w", job_id)
    with pytest.raises(BadRequest) as lost:
        gateway.finish("other", job_id, "failed")
    assert lost.value.code == "lease_lost"


def test_success_without_a_vector_is_refused(gateway: TrainingProcess, job_id: str) -> None:
    with pytest.raises(BadRequest) as refused:
        gateway.finish("w", job_id, "succeeded")
    assert refused.value.param == "best"
    assert gateway.status(job_id) == "running"


def test_gateway_killed_in_the_middle_leaves_nothing_and_the_calls_are_sent_again(
    gateway: TrainingProcess, job_id: str, database_url: str
) -> None:
    before = everything(gateway)
    program = [sys.executable, "-c", HOLD_A_REPORT_AND_AN_END_OPEN, database_url, job_id]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert everything(gateway) == before
    assert gateway.report("w", job_id, 1, 0.5)[1]
    assert gateway.succeed("w", job_id).status == "succeeded"


def test_a_disabled_tenants_jobs_are_paused_and_can_go_on_later(gateway: TrainingProcess, database: Database) -> None:
    tenant = gateway.do(lambda to: create_tenant(database, to, "globex", {})).id
    running, waiting, done = (gateway.new_job(tenant) for _ in range(3))
    gateway.set(done, status="cancelled")
    other = gateway.new_job()
    assert gateway.claimed("w", 2) == [running, other]

    gateway.do(lambda to: update_tenant(to, "globex", {}, disabled=True, on_disable=pause_jobs_of_disabled))

    statuses = [gateway.do(lambda to, job=job: get_job(to, tenant, job)).status for job in (running, waiting, done)]
    assert statuses == ["paused", "paused", "cancelled"]
    assert gateway.status(other) == "running"
    assert gateway.claim("w", 0, (running, other)).running[running].wanted == "pause"
    assert "the tenant was disabled" in gateway.events(running)[-1]
    gateway.do(lambda to: update_tenant(to, "globex", {}, disabled=False))
    gateway.do(lambda to: resume_job(to, tenant, running))
    assert gateway.claim("w", 0, (running,)).running[running].wanted == "run"


def test_a_report_waits_for_adapters_before_it_has_the_tenants_row(
    gateway: TrainingProcess, job_id: str, database: Database
) -> None:
    """So whoever changes an adapter, and then the tenant's row, does not wait for a report that waits for them."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer")
    for step in range(1, 5):
        gateway.report("w", job_id, step, 0.1 * step)
    assert published(gateway, job_id) == [2, 3, 4]
    withdrawn = sa.select(ADAPTERS).where(ADAPTERS.c.name == f"ft:{job_id}:ckpt-step-2").with_for_update()
    tenant = sa.select(TENANTS).where(TENANTS.c.id == DEFAULT_TENANT_ID)

    with ThreadPoolExecutor(1) as thread:
        with database.write() as connection:
            connection.execute(withdrawn)
            report = thread.submit(gateway.report, "w", job_id, 5, 0.9)
            while not report.done():
                with database.read() as reading:
                    if reading.execute(WAITING).scalar_one():
                        break
            assert not report.done()
            connection.execute(tenant.with_for_update(nowait=True, key_share=True))
        report.result()
    assert published(gateway, job_id) == [3, 4, 5]


def test_a_job_that_another_worker_gets_meanwhile_is_not_given_back_and_the_others_are(
    gateway: TrainingProcess, database: Database, job_id: str
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer")
    second = gateway.new_job()
    assert gateway.claimed("w", running=(job_id,)) == [second]
    with ThreadPoolExecutor(1) as thread:
        with database.write() as connection:
            connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(lease_owner="other"))
            giving = thread.submit(gateway.do, lambda to: give_back(database, to, "w"))
            while not giving.done():
                with database.read() as reading:
                    if reading.execute(WAITING).scalar_one():
                        break
        giving.result()
    owners = sa.select(JOBS.c.id, JOBS.c.lease_owner)
    assert dict(gateway.do(lambda to: [tuple(row) for row in to.execute(owners)])) == {job_id: "other", second: None}
