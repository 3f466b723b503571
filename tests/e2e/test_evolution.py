"""Jobs of method evolution on the real server and its worker without weights, for two tenants beside each other."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.running import ServerProcess
from tests.e2e.tenants import new_tenant
from tests.e2e.test_training_killed import has_succeeded, step_of, steps, until, vector

pytestmark = [pytest.mark.engine, pytest.mark.slow]

STEPS = 4
# Of MiB. A worker's libraries, torch among them, are some 500; the weights alone are 515 in float32, 257 in bfloat16.
MOST_MEMORY = 700
ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"Name {one}."}]}).encode() + b"\n"
    for one in ("a colour", "a city", "a fruit", "an animal", "a river", "a planet", "a metal", "a game")
)
GRADER = {
    "type": "text_similarity",
    "name": "short",
    "input": "{{ sample.output_text }}",
    "reference": "No.",
    "evaluation_metric": "fuzzy_match",
}
SETTINGS = {
    "batch_size": 4,
    "population_size": 8,
    # Measured, it would be the same but for the last bits of the engine's log-probabilities.
    "sigma": 0.1,
    "max_completion_tokens": 8,
    "max_steps": STEPS,
    "validation_fraction": 0,
    "eval_interval": 2,
    "epochs": 10,
    "dtype": "float32",
}


def new_job(client: openai.OpenAI) -> str:
    """Its id. Of the same data and seed every time."""
    file = client.files.create(file=("rows.jsonl", io.BytesIO(ROWS)), purpose="fine-tune").id
    method: Any = {"type": "evolution", "evolution": {"grader": GRADER}}
    return client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=file,
        method=method,
        seed=1,
        extra_body={"tinylora": SETTINGS},
    ).id


@pytest.mark.timeout(600)
def test_jobs_of_two_tenants_end_as_alone_also_when_their_worker_is_killed(
    server: ServerProcess, client: openai.OpenAI, http: httpx.Client
) -> None:
    undisturbed = new_job(client)
    until(lambda: has_succeeded(client, undisturbed))
    worker = server.worker("evolution")
    assert worker is not None
    assert worker.memory_info().rss < MOST_MEMORY * 2**20
    assert not [file.path for file in worker.memory_maps() if file.path.endswith("model.safetensors")]

    tenant = new_tenant(http, "evolving")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=tenant, max_retries=0, timeout=120) as other:
        jobs = [(client, new_job(client)), (other, new_job(other))]
        until(lambda: all(step_of(*job) >= 1 for job in jobs))
        worker = server.worker("evolution")
        assert worker is not None
        worker.kill()
        for job in jobs:
            until(lambda job=job: has_succeeded(*job))  # type: ignore[misc]
        (_, killed), (_, others) = jobs
        assert steps(client, killed) == steps(other, others) == steps(client, undisturbed)
        with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {tenant}"}, timeout=120) as theirs:
            assert vector(client, http, killed) == vector(other, theirs, others) == vector(client, http, undisturbed)
            model = client.fine_tuning.jobs.retrieve(undisturbed).fine_tuned_model
            assert theirs.get(f"/v1/adapters/{model}").status_code == 404

    points = list(client.fine_tuning.jobs.checkpoints.list(undisturbed))
    assert [point.step_number for point in points] == [4, 2]
    answer = client.completions.create(model=points[0].fine_tuned_model_checkpoint, prompt="Name a tree.", max_tokens=4)
    assert answer.choices[0].text
