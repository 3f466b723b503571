"""The training example against the real server and its own worker: that it works, not how much is learned."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.e2e.running import ADMIN_KEY, ServerProcess
from tests.e2e.talking import Talk

pytestmark = [pytest.mark.engine, pytest.mark.slow]

STEPS = 2


def test_the_example_trains_an_adapter_that_can_be_asked(
    server: ServerProcess, client: openai.OpenAI, talk: Talk, tmp_path: Path
) -> None:
    sizes = ["--steps", STEPS, "--batch-size", 2, "--group-size", 4, "--validation", 4, "--eval-samples", 1]
    command = [sys.executable, "-m", "clients.examples.train", *map(str, sizes), "--directory", str(tmp_path)]
    environment = {**os.environ, "TINYLORA_URL": server.url, "TINYLORA_API_KEY": ADMIN_KEY}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr + server.output()
    assert "held-out rows, greedy: before" in done.stdout

    job = next(iter(client.fine_tuning.jobs.list()))
    assert job.status == "succeeded" and job.fine_tuned_model is not None
    metrics = [event.data for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    # The evaluation before training is step 0.
    assert sorted(data["step"] for data in metrics if isinstance(data, dict)) == list(range(STEPS + 1))
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints[0].step_number == STEPS
    for model in (job.fine_tuned_model, checkpoints[0].fine_tuned_model_checkpoint):
        assert talk.greedy(model=model).tokens
    assert (
        len(client.get(f"/adapters/{job.fine_tuned_model}/vector", cast_to=openai.HttpxBinaryResponseContent).content)
        == 2 * 196
    )
