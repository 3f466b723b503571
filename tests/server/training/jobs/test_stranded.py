"""What is said of jobs that were made for other factors than this server's, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Connection

from server.core.clock import following
from server.core.principal import DEFAULT_TENANT_ID
from server.training.jobs.lifecycle import locked_job, pause_job, resume_job
from server.training.jobs.stranded import AGAIN_S, STRANDED, WAIT_S
from tests.server.support.training_process import FACTORS, TrainingProcess

START = 1_000_000
OTHER = "b" * 64


def said(gateway: TrainingProcess, job_id: str) -> list[str]:
    return [message for message in gateway.events(job_id) if message.startswith(STRANDED)]


def claim_at(gateway: TrainingProcess, at: int) -> None:
    with following(lambda: at):
        assert gateway.claimed("w", 5) == []


def claims_until(end: int, *gateways: TrainingProcess, since: int = START) -> None:
    """Workers ask all the time, and for the last time at `end`; before, of each claim there is only this part."""
    for at in range(since, end, AGAIN_S):
        for gateway in gateways:
            with following(lambda at=at: at):
                gateway.do(lambda to, gateway=gateway: gateway.stranded.tell(to, "base", FACTORS))
    for gateway in gateways:
        claim_at(gateway, end)


def test_a_job_of_other_factors_is_told_so_once(gateway: TrainingProcess, other: TrainingProcess) -> None:
    with following(lambda: START):
        unread, waiting, running = (gateway.new_job(factors=OTHER, waits=waits) for waits in (False, True, True))
        gateway.set(running, status="running", lease_owner="gone", lease_expires_at=START)
        paused = gateway.new_job(factors=OTHER)
        gateway.set(paused, status="paused")
    claims_until(START + WAIT_S - AGAIN_S, gateway, other)
    assert said(gateway, waiting) == [], "a worker of another server may be about to take it"
    claims_until(START + WAIT_S + 3 * AGAIN_S, gateway, other, since=START + WAIT_S)
    for job_id in (unread, waiting, running):
        assert said(gateway, job_id) == [
            "No worker of this server can take the job: it was made for base with the factors bbbbbbbbbbbb..., and "
            "this server serves base with the factors aaaaaaaaaaaa... The job waits for a server with its own, which "
            "the operator can start with the same database and factors file. Or cancel it, and make it again for what "
            "is served here."
        ]
    assert said(gateway, paused) == []


def test_it_is_said_again_after_its_owner_resumed_the_job(gateway: TrainingProcess) -> None:
    with following(lambda: START):
        job_id = gateway.new_job(factors=OTHER)
    claims_until(START + WAIT_S, gateway)
    with following(lambda: START + WAIT_S):
        gateway.do(lambda to: pause_job(to, DEFAULT_TENANT_ID, job_id))
        gateway.do(lambda to: resume_job(to, DEFAULT_TENANT_ID, job_id))
    claims_until(START + 2 * WAIT_S - AGAIN_S, gateway, since=START + WAIT_S + AGAIN_S)
    assert len(said(gateway, job_id)) == 1
    claim_at(gateway, START + 2 * WAIT_S)
    assert len(said(gateway, job_id)) == 2


def test_nothing_is_said_while_a_worker_of_another_server_has_jobs_of_these_factors_or_had_lately(
    gateway: TrainingProcess,
) -> None:
    with following(lambda: START):
        waiting, elsewhere = gateway.new_job(factors=OTHER), gateway.new_job(factors=OTHER)
    last = START + 2 * WAIT_S
    gateway.set(elsewhere, status="running", lease_owner="its", lease_expires_at=last + 1)
    claims_until(last, gateway)
    # Given back in the middle of a long step, without an event, as at every restart of its server.
    gateway.finish("its", elsewhere, "released")
    claims_until(last + WAIT_S, gateway, since=last + AGAIN_S)
    assert said(gateway, waiting) == said(gateway, elsewhere) == []
    claim_at(gateway, last + WAIT_S + AGAIN_S)
    assert len(said(gateway, waiting)) == len(said(gateway, elsewhere)) == 1


def test_a_claim_does_not_wait_for_a_job_that_is_being_changed(gateway: TrainingProcess) -> None:
    with following(lambda: START):
        jobs = [gateway.new_job(factors=OTHER) for _ in range(2)]
    if gateway.database.is_sqlite:
        pytest.skip("it has one writer")

    claims_until(START + WAIT_S - AGAIN_S, gateway)

    def changing(connection: Connection) -> None:
        locked_job(connection, jobs[0])
        claim_at(gateway, START + WAIT_S)

    gateway.do(changing)
    assert [len(said(gateway, job_id)) for job_id in jobs] == [0, 1]
    claim_at(gateway, START + WAIT_S + AGAIN_S)
    assert [len(said(gateway, job_id)) for job_id in jobs] == [1, 1]
