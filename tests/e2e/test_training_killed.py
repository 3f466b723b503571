"""Worker and server are killed in the middle of a job, which ends as if nothing had happened."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from clients.examples.make_task import GRADER, make_task
from tests.e2e.running import ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow]

STEPS = 4
# With it completions of one prompt get different rewards in every step, so that every step moves the vector.
SEED = 2
SETTINGS = {
    "group_size": 4,
    "max_completion_tokens": 12,
    "max_steps": STEPS,
    "validation_fraction": 0,
    "eval_interval": 1,
    "epochs": 10,
    "dtype": "float32",
    # The engine's log-probabilities differ in their last bits with the number of sequences that it computes together,
    # which is a matter of milliseconds. What it samples does not, so that without them the vector is the same to the
    # last bit; corrected by them it would be to about 1e-8.
    "importance_sampling": "none",
    # For the same reason: one that is measured is measured by them.
    "learning_rate": 0.002,
}


def new_job(client: openai.OpenAI, file: str) -> str:
    """Its id. Of the same data and seed every time."""
    reinforcement: Any = {"grader": GRADER, "hyperparameters": {"batch_size": 2}}
    return client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=file,
        method={"type": "reinforcement", "reinforcement": reinforcement},
        seed=SEED,
        extra_body={"tinylora": SETTINGS},
    ).id


def step_of(client: openai.OpenAI, job_id: str) -> int:
    return client.fine_tuning.jobs.retrieve(job_id).model_dump()["step"] or 0


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def has_succeeded(client: openai.OpenAI, job_id: str) -> bool:
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.status not in ("failed", "cancelled", "paused"), job.error
    return job.status == "succeeded"


def steps(client: openai.OpenAI, job_id: str) -> list[dict[str, Any]]:
    """What was reported of each step, the first first, without how long it took and the engine's last bits."""
    without = ("timing", "logprob_gap_mean", "logprob_gap_max")
    events = [event.data for event in client.fine_tuning.jobs.list_events(job_id) if event.type == "metrics"]
    return [{name: value for name, value in data.items() if name not in without} for data in reversed(events)]  # type: ignore[union-attr]


def samples(http: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    """The first hundred samples, without what is every job's own."""
    page = http.get(f"/v1/fine_tuning/jobs/{job_id}/samples", params={"limit": 100}).raise_for_status().json()
    own = ("id", "created_at", "fine_tuning_job_id")
    return [{name: value for name, value in one.items() if name not in own} for one in page["data"]]


def vector(client: openai.OpenAI, http: httpx.Client, job_id: str) -> bytes:
    model = client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    return http.get(f"/v1/adapters/{model}/vector").raise_for_status().content


@pytest.mark.timeout(600)
def test_a_job_whose_worker_and_server_are_killed_ends_as_one_that_nothing_disturbs(
    server: ServerProcess, client: openai.OpenAI, http: httpx.Client, tmp_path: Path
) -> None:
    training, _ = make_task(tmp_path)
    file = client.files.create(file=training, purpose="fine-tune").id
    undisturbed = new_job(client, file)
    until(lambda: has_succeeded(client, undisturbed))

    killed = new_job(client, file)
    until(lambda: step_of(client, killed) >= 1)
    worker = server.worker("reinforcement")
    assert worker is not None
    worker.kill()
    first = step_of(client, killed)
    until(lambda: step_of(client, killed) > first)
    second = step_of(client, killed)
    server.kill()
    server.start()
    until(lambda: has_succeeded(client, killed))

    # Each time, the next worker goes on behind the last step that was reported.
    behind = re.findall(rf"{killed} \(default\) starts behind step (\d+)", server.output())
    assert list(map(int, behind)) == [0, first, second]
    assert [step["step"] for step in steps(client, killed)] == list(range(1, STEPS + 1))
    assert steps(client, killed) == steps(client, undisturbed)
    assert samples(http, killed) == samples(http, undisturbed)
    assert [one["step"] for one in samples(http, killed)] == [step for step in range(STEPS, 0, -1) for _ in range(2)]
    assert all(step["gradient_norm"] for step in steps(client, killed))
    assert vector(client, http, killed) == vector(client, http, undisturbed)
