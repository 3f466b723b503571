"""Who gets which job, on both databases: fairness, leases, and workers that vanish, at once and one after the other."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from server.core.clock import following
from server.core.errors import BadRequest, NotFound, TooManyRequests
from server.core.ids import new_id
from server.core.principal import DEFAULT_TENANT_ID
from server.db.tables import TENANTS
from server.training.files.rows import delete_file
from server.training.jobs.config import EvolutionConfig, ReinforcementConfig
from server.training.jobs.leases import MAX_ATTEMPTS, TRIAL, TRIAL_S
from server.training.jobs.lifecycle import (
    NewJob,
    cancel_job,
    create_job,
    fail_job,
    get_job,
    pause_job,
    resume_job,
)
from server.training.jobs.progress import validated
from server.training.jobs.protocol import ValidatedRequest
from server.training.jobs.turns import SUSPECT
from server.training.jobs.unreadable import AGAIN_S
from tests.server.support.acting import new_tenant
from tests.server.support.training_kit import vector
from tests.server.support.training_process import FACTORS, TrainingProcess


def test_job_is_read_first_and_trained_in_its_turn(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job(waits=False)
    (job,) = gateway.claim("w").jobs
    assert (job.id, job.status) == (job_id, "validating_files")
    assert gateway.claimed("v") == []
    request = ValidatedRequest(worker="w", total_steps=4, training_rows=10)
    for _ in range(2):
        assert gateway.do(lambda to: validated(to, job_id, request)).lease_expires_at is None
    assert gateway.status(job_id) == "queued"
    (job,) = gateway.claim("v").jobs
    assert (job.id, job.status, job.total_steps) == (job_id, "running", 4)


@pytest.mark.parametrize("change", ["pause", "cancel"])
def test_what_its_owner_wants_of_a_job_holds_although_its_files_were_being_read(
    gateway: TrainingProcess, change: str
) -> None:
    job_id = gateway.new_job(waits=False)
    assert gateway.claimed("w") == [job_id]
    if change == "pause":
        gateway.do(lambda to: pause_job(to, DEFAULT_TENANT_ID, job_id))
    else:
        gateway.do(lambda to: cancel_job(gateway.database, to, DEFAULT_TENANT_ID, job_id))
    before = gateway.status(job_id), gateway.events(job_id)[-1]
    request = ValidatedRequest(worker="w", total_steps=4, training_rows=10)
    assert gateway.do(lambda to: validated(to, job_id, request)).wanted == change
    assert gateway.status(job_id) == before[0]
    assert gateway.claimed("v") == []
    if change == "pause":
        assert gateway.do(lambda to: resume_job(to, DEFAULT_TENANT_ID, job_id)).status == "queued", "they are not again"
    else:
        assert gateway.events(job_id)[-1] == before[1]


def test_worker_without_room_gets_nothing_and_keeps_what_it_has(gateway: TrainingProcess) -> None:
    first, second = gateway.new_job(), gateway.new_job()
    assert gateway.claimed("w") == [first]
    gateway.expire(first)
    answer = gateway.claim("w", 0, (first, second))
    assert answer.jobs == [] and answer.running[first].wanted == "run" and answer.running[second].wanted == "lost"
    assert gateway.claimed("v", 5) == [second]


def test_a_lease_ends_at_its_second_unless_it_is_renewed(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    with following(lambda: 1000):
        (job,) = gateway.claim("w").jobs
    assert (job.id, job.lease_expires_at) == (job_id, 1030)
    with following(lambda: 1029):
        assert gateway.claimed("v") == []
        assert gateway.claim("w", 0, (job_id,)).running[job_id].lease_expires_at == 1059
    with following(lambda: 1058):
        assert gateway.claimed("v") == []
    with following(lambda: 1059):
        assert gateway.claimed("v") == [job_id]
    assert gateway.do(lambda to: get_job(to, DEFAULT_TENANT_ID, job_id)).started_at == 1000


def test_tenants_take_turns_by_weight_and_jobs_by_age(gateway: TrainingProcess) -> None:
    busy, light, heavy = (new_tenant(gateway.database, name).id for name in ("busy", "light", "heavy"))
    gateway.do(lambda to: to.execute(TENANTS.update().where(TENANTS.c.id == heavy).values(weight=2.0)))
    jobs = {tenant: [gateway.new_job(tenant) for _ in range(4)] for tenant in (busy, light, heavy)}
    order = [gateway.claimed(f"w{turn}")[0] for turn in range(7)]
    # Jobs over weight decide, then age: with one job each, heavy has half as many for its weight as the others.
    expected = [(busy, 0), (light, 0), (heavy, 0), (heavy, 1), (busy, 1), (light, 1), (heavy, 2)]
    assert order == [jobs[tenant][number] for tenant, number in expected]


def test_jobs_that_no_worker_has_and_those_of_other_models_take_no_turn(gateway: TrainingProcess) -> None:
    first, second = (new_tenant(gateway.database, name).id for name in ("first", "second"))
    elsewhere = gateway.new_job(first, factors="b" * 64)
    gateway.set(elsewhere, status="running", lease_owner="its", lease_expires_at=2**40)
    left = gateway.new_job(first)
    gateway.set(left, status="running", lease_owner="gone", lease_expires_at=1)
    later = gateway.new_job(second)
    assert [gateway.claimed("v"), gateway.claimed("w")] == [[left], [later]]


def test_jobs_of_a_tenant_leave_room_for_anothers(gateway: TrainingProcess) -> None:
    gateway.new_job(new_tenant(gateway.database, "other").id)
    gateway.new_job(most=1)
    with pytest.raises(TooManyRequests, match="There are 1 jobs"):
        gateway.new_job(most=1)


def test_jobs_of_other_factors_and_disabled_tenants_wait(gateway: TrainingProcess) -> None:
    gateway.new_job(factors="b" * 64)
    disabled = new_tenant(gateway.database, "disabled").id
    gateway.new_job(disabled)
    gateway.do(lambda to: to.execute(TENANTS.update().where(TENANTS.c.id == disabled).values(disabled_at=1)))
    assert gateway.claimed("w", 5) == []


def test_expired_lease_is_taken_over_from_the_last_checkpoint(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    gateway.claim("first")
    gateway.report("first", job_id, 1)
    assert gateway.claimed("second") == []
    gateway.expire(job_id)
    (job,) = gateway.claim("second").jobs
    assert job.checkpoint is not None and (job.checkpoint.step, job.checkpoint.vector) == (
        1,
        base64.b64decode(vector(1)),
    )
    for late in (lambda: gateway.report("first", job_id, 2), lambda: gateway.finish("first", job_id, "failed")):
        with pytest.raises(BadRequest) as lost:
            late()
        assert lost.value.code == "lease_lost"
    assert gateway.claim("first", 0, (job_id,)).running[job_id].wanted == "lost"
    assert gateway.report("second", job_id, 2)[0].wanted == "run"


def test_late_report_of_a_lease_that_nobody_took_counts(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    gateway.claim("w")
    gateway.expire(job_id)
    assert gateway.report("w", job_id, 1)[1]
    assert gateway.claimed("v") == []


def test_released_job_is_free_at_once(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    gateway.claim("w")
    for _ in range(2):
        assert gateway.finish("w", job_id, "released").status == "queued"
    assert gateway.claimed("v") == [job_id]


def test_job_that_outlives_no_worker_is_failed(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    for attempt in range(MAX_ATTEMPTS):
        assert gateway.claimed(f"w{attempt}") == [job_id]
        gateway.expire(job_id)
    assert gateway.claimed("last") == []
    assert gateway.status(job_id) == "failed"


def test_a_worker_has_one_job_at_a_time_of_those_that_ended_their_workers(gateway: TrainingProcess) -> None:
    jobs = [gateway.new_job() for _ in range(3)]
    for worker in ("a", "b"):
        assert gateway.claimed(worker, 4) == jobs
        for job_id in jobs:
            gateway.expire(job_id)
    # The others go on as ever: those that wait, and those whose files are to be read.
    fresh, checked = gateway.new_job(), gateway.new_job(waits=False)
    assert gateway.claimed("c", 4) == [checked, jobs[0], fresh]
    assert TRIAL in gateway.events(jobs[0]) and TRIAL not in gateway.events(fresh)
    running = (checked, jobs[0], fresh)
    later, unread = gateway.new_job(new_tenant(gateway.database, "later").id), gateway.new_job(waits=False)
    assert gateway.claimed("c", 4, running=running) == [unread, later]
    assert gateway.claimed("d", 1) == jobs[1:2]
    gateway.report("c", jobs[0], 1)
    assert gateway.claimed("c", 4, running=running) == jobs[2:]


def test_a_job_that_ended_its_workers_keeps_others_waiting_for_minutes_at_most(gateway: TrainingProcess) -> None:
    stuck, waiting = gateway.new_job(), gateway.new_job()
    for job_id in (stuck, waiting):
        gateway.set(job_id, attempts=SUSPECT, lease_owner="gone", lease_expires_at=1)
    with following(lambda: 1000):
        assert gateway.claimed("w", 4) == [stuck]
    with following(lambda: 1000 + TRIAL_S - 1):
        assert gateway.claimed("w", 3, running=(stuck,)) == []
    with following(lambda: 1000 + TRIAL_S):
        assert gateway.claimed("w", 3, running=(stuck,)) == [waiting]


def test_jobs_that_workers_dropped_and_said_why_keep_nobody_waiting(gateway: TrainingProcess) -> None:
    jobs = [gateway.new_job() for _ in range(3)]
    for worker in ("a", "b", "c"):
        assert gateway.claimed(worker, 4) == jobs
        for job_id in jobs:
            for _ in range(2):
                assert gateway.finish(worker, job_id, "dropped").status == "running"
        # They are tried again when the lease has run out.
        assert gateway.claimed("eager", 4) == []
        for job_id in jobs:
            gateway.expire(job_id)
    assert gateway.claimed("d", 4) == jobs
    assert TRIAL not in gateway.events(jobs[0])


def test_a_step_forgives_earlier_attempts(gateway: TrainingProcess) -> None:
    job_id = gateway.new_job()
    for step in range(1, MAX_ATTEMPTS + 2):
        assert gateway.claimed(f"w{step}") == [job_id]
        gateway.report(f"w{step}", job_id, step)
        gateway.expire(job_id)
    assert gateway.status(job_id) == "running"


def test_a_job_of_another_version_waits_for_it_and_stops_nobody(gateway: TrainingProcess) -> None:
    running, checked = gateway.new_job(), gateway.new_job(waits=False)
    assert gateway.claimed("w", 2) == [checked, running]
    newer = [gateway.new_job(), gateway.new_job(waits=False)]
    config = gateway.do(lambda to: get_job(to, DEFAULT_TENANT_ID, newer[0])).config
    for job_id in newer:
        gateway.set(job_id, config=json.dumps({**json.loads(config), "temperament": 1}))
    readable = gateway.new_job()
    gateway.expire(running)
    for claimed in ([readable], []):
        answer = gateway.claim("w", 3, (running,))
        assert [job.id for job in answer.jobs] == claimed
        assert answer.running[running].wanted == "run" and answer.running[running].lease_expires_at > 1
    for job_id in newer:
        row = gateway.do(lambda to, job_id=job_id: get_job(to, DEFAULT_TENANT_ID, job_id))
        assert (row.lease_owner, row.attempts, row.started_at) == (None, 0, None)
        assert [message for message in gateway.events(job_id) if "temperament" in message] == [
            "This version of the server cannot read the job (reinforcement.temperament: Extra inputs are not permitted)"
            ", so the job waits for one that can."
        ]
        gateway.set(job_id, config=config)
    held = (running, checked, readable)
    assert gateway.claim("w", 3, held).jobs == [], "a claim does not try again what it passed over just now"
    with following(lambda: time.time() + AGAIN_S):
        assert sorted(job.id for job in gateway.claim("w", 3, held).jobs) == sorted(newer)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_job_of_another_version_can_be_ended(gateway: TrainingProcess, end: str) -> None:
    job_id = gateway.new_job()
    gateway.claim("w")
    gateway.report("w", job_id, 1)
    config = gateway.do(lambda to: get_job(to, DEFAULT_TENANT_ID, job_id)).config
    gateway.set(job_id, config=json.dumps({**json.loads(config), "temperament": 1}))
    if end == "cancelled":
        gateway.do(lambda to: cancel_job(gateway.database, to, DEFAULT_TENANT_ID, job_id))
    else:
        row = gateway.do(lambda to: get_job(to, DEFAULT_TENANT_ID, job_id))
        gateway.do(lambda to: fail_job(gateway.database, to, row, "server_error", "why"))
    assert gateway.status(job_id) == end
    assert gateway.events(job_id)[-1] == (
        "The checkpoint of step 1 cannot be served: this version of the server cannot read the job."
    )


def test_two_workers_never_have_one_job(gateway: TrainingProcess, other: TrainingProcess) -> None:
    jobs = [gateway.new_job() for _ in range(30)]
    start = Barrier(6)

    def work(number: int) -> list[str]:
        mine, taken = (gateway, other)[number % 2], []
        start.wait()
        while batch := mine.claimed(f"worker-{number}", 1 + number % 3):
            taken += batch
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [job for part in pool.map(work, range(6)) for job in part]
    assert sorted(taken) == sorted(jobs)


def test_takeover_and_late_report_leave_one_owner(gateway: TrainingProcess, other: TrainingProcess) -> None:
    for _ in range(10):
        job_id = gateway.new_job()
        gateway.claim("old")
        gateway.expire(job_id)
        start = Barrier(2)

        def late(job_id: str = job_id, start: Barrier = start) -> bool:
            start.wait()
            try:
                return gateway.report("old", job_id, 1)[1]
            except BadRequest:
                return False

        def take(job_id: str = job_id, start: Barrier = start) -> bool:
            start.wait()
            return other.claimed("new") == [job_id]

        with ThreadPoolExecutor(2) as pool:
            reported, taken = (future.result() for future in (pool.submit(late), pool.submit(take)))
        # Whoever came first; not both, and not none.
        assert reported != taken
        gateway.do(lambda to, job_id=job_id: cancel_job(gateway.database, to, DEFAULT_TENANT_ID, job_id))


def test_file_is_either_deleted_or_trained_on(gateway: TrainingProcess, other: TrainingProcess) -> None:
    for _ in range(10):
        job_id = gateway.new_job()
        file_id = gateway.do(lambda to, job_id=job_id: get_job(to, DEFAULT_TENANT_ID, job_id)).training_file
        gateway.do(lambda to, job_id=job_id: cancel_job(gateway.database, to, DEFAULT_TENANT_ID, job_id))
        start = Barrier(2)

        def delete(file_id: str = file_id, start: Barrier = start) -> bool:
            start.wait()
            try:
                gateway.do(lambda to: delete_file(to, DEFAULT_TENANT_ID, file_id))
            except (BadRequest, NotFound):
                return False
            return True

        def create(file_id: str = file_id, start: Barrier = start) -> bool:
            job = NewJob(
                new_id("ftjob-"), "base", FACTORS, file_id, None, {}, ReinforcementConfig(), None, 1, {}, [], "ft:x"
            )
            start.wait()
            try:
                other.do(lambda to: create_job(to, DEFAULT_TENANT_ID, None, job, 1000))
            except BadRequest:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            deleted, created = (future.result() for future in (pool.submit(delete), pool.submit(create)))
        assert deleted != created


def test_a_worker_trains_only_jobs_of_its_methods_and_reads_files_of_all(gateway: TrainingProcess) -> None:
    gradient, evolution = gateway.new_job(), gateway.new_job(config=EvolutionConfig())
    checked = gateway.new_job(waits=False)
    assert gateway.claimed("light", 4, methods=["evolution"]) == [checked, evolution]
    assert gateway.claimed("light", 4, methods=["evolution"]) == []
    assert gateway.claimed("full", 4) == [gradient]
