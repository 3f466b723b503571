"""`client.fine_tuning.jobs`, sync and async, against the real gateway, with a worker that trains nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import tinylora_client
from tests.clients.python.conftest import Connect
from tests.server.support.fake_engine import BASE, MODULES
from tests.server.support.training_kit import REINFORCEMENT, Worker
from tinylora_client import batch_operations, job_operations
from tinylora_client.operation import Steps

STEPS = 4
QUICK = {"poll_s": 0.02}


def train(worker: Worker, end: str = "succeeded") -> None:
    """Does the one job there is."""
    job_id = worker.claim_running()["id"]
    for step in range(1, STEPS + 1):
        time.sleep(0.05)
        assert worker.report(job_id, step, reward=step / STEPS).status_code == 200
    error = {"code": "training_failed", "message": "the GPU caught fire", "param": None}
    response = worker.succeed(job_id) if end == "succeeded" else worker.finish(job_id, "failed", error=error)
    assert response.status_code == 200, response.text


def test_from_a_file_to_an_adapter_with_a_bar(
    client: Any, worker: Worker, rows: Path, meanwhile: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    job = client.fine_tuning.jobs.create(
        training_file=rows, method=REINFORCEMENT, tinylora={"group_size": 2}, suffix="sums", seed=3
    )
    assert (job.model, job.seed, job.tinylora["group_size"]) == (BASE, 3, 2)
    assert client.files.retrieve(job.training_file).filename == rows.name
    meanwhile(lambda: train(worker))
    updates: list[tinylora_client.JobUpdate] = []
    done = client.fine_tuning.jobs.wait(job.id, progress=True, on_update=updates.append, **QUICK)
    assert (done.status, done.step, done.total_steps) == ("succeeded", STEPS, STEPS)
    assert (
        client.chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "1 + 1"}], adapter=done.fine_tuned_model
        )
        .choices[0]
        .message.content.endswith(f"{[0.25] * len(MODULES)}")
    )
    ids = [event.id for update in updates for event in update.events]
    listed = [event.id for event in client.fine_tuning.jobs.list_events(job.id)]
    assert ids == listed[::-1], "every event is told once, in the order in which things happened"
    bar = capfd.readouterr().err
    assert job.id in bar and f"{STEPS}/{STEPS}" in bar and "succeeded" in bar


def test_failure_and_cancellation_raise_with_the_reason(
    client: Any, worker: Worker, rows: Path, meanwhile: Any
) -> None:
    job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)
    meanwhile(lambda: train(worker, "failed"))
    with pytest.raises(tinylora_client.JobFailedError, match="the GPU caught fire") as caught:
        client.fine_tuning.jobs.wait(job.id, **QUICK)
    assert caught.value.job.status == "failed"
    job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(tinylora_client.JobFailedError, match="was cancelled"):
        client.fine_tuning.jobs.wait(job.id, **QUICK)
    with pytest.raises(tinylora_client.JobFinishedError):
        client.fine_tuning.jobs.pause(job.id)
    with pytest.raises(tinylora_client.JobNotFoundError):
        client.fine_tuning.jobs.wait("ftjob-none", **QUICK)


def test_a_job_that_is_paused_is_not_waited_for(client: Any, rows: Path) -> None:
    job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)
    client.fine_tuning.jobs.pause(job.id)
    with pytest.raises(
        tinylora_client.JobPausedError, match=r"resumed; its last event: Fine-tuning job paused"
    ) as caught:
        client.fine_tuning.jobs.wait(job.id, **QUICK)
    assert caught.value.job.status == "paused"


def test_waiting_ends_in_time_and_leaves_the_job_alone(client: Any, rows: Path) -> None:
    job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)
    with pytest.raises(tinylora_client.JobWaitTimeoutError, match="it goes on") as caught:
        client.fine_tuning.jobs.wait(job.id, timeout=0.05, **QUICK)
    assert isinstance(caught.value, TimeoutError)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "validating_files"


def test_following_gives_updates_until_the_end_and_samples_of_steps(
    client: Any, worker: Worker, rows: Path, meanwhile: Any
) -> None:
    job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)

    def train_with_samples() -> None:
        job_id = worker.claim_running()["id"]
        completion = {"text": "2", "tokens": 1, "finished": True, "reward": 1.0}
        group = {"messages": [{"role": "user", "content": "1 + 1 = ?"}], "completions": [completion], "line": 1}
        assert worker.report(job_id, 1, samples=[group]).status_code == 200
        worker.succeed(job_id)

    meanwhile(train_with_samples)
    statuses = [update.job.status for update in client.fine_tuning.jobs.follow(job.id, **QUICK)]
    assert statuses[-1] == "succeeded"
    (sample,) = list(client.fine_tuning.jobs.samples(job.id, step=1))
    assert (sample.step, sample.completions[0].text, sample.completions[0].reward) == (1, "2", 1.0)


class Away(httpx2.BaseTransport):
    """A server that is away for some requests of looking at jobs."""

    def __init__(self, times: int) -> None:
        self.left = times
        self._real = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET" and "/jobs/" in str(request.url) and self.left:
            self.left -= 1
            raise httpx2.ConnectError("the server is away", request=request)
        return self._real.handle_request(request)


def test_a_server_that_restarts_is_waited_for_and_one_that_stays_away_is_not(
    base_url: str, worker: Worker, rows: Path, meanwhile: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    away = Away(0)
    with tinylora_client.TinyLoRA(
        base_url=base_url, max_retries=0, http_client=httpx2.Client(transport=away)
    ) as client:
        job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)
        away.left = 5
        meanwhile(lambda: train(worker))
        silences: list[openai.APIError] = []
        done = client.fine_tuning.jobs.wait(job.id, poll_s=0.02, on_silence=silences.append, progress=True)
        assert (done.status, away.left, len(silences)) == ("succeeded", 0, 5)
        assert "no answer, asking again: Connection error" in capfd.readouterr().err
        away.left = 1000
        with pytest.raises(openai.APIConnectionError):
            client.fine_tuning.jobs.wait(job.id, poll_s=0.02, patience_s=0.1)


@pytest.mark.parametrize("wait", [job_operations.wait, batch_operations.wait])
def test_a_server_that_is_away_is_not_waited_for_beyond_the_timeout(wait: Callable[..., Steps[Any]]) -> None:
    away = openai.APIConnectionError(request=httpx2.Request("GET", "http://localhost"))

    def first_failure(timeout: float) -> Any:
        steps = wait("id-1", timeout=timeout, poll_s=1000.0, patience_s=1000.0, progress=False)
        next(steps)
        return steps.throw(away)

    assert first_failure(timeout=100.0).seconds <= 100.0
    with pytest.raises(openai.APIConnectionError):
        first_failure(timeout=0.0)


def test_what_is_not_the_id_of_a_job_is_refused_before_it_is_sent(connect: Connect) -> None:
    with pytest.raises(ValueError, match="expected the id of a job"):
        connect().fine_tuning.jobs.wait("../files")
