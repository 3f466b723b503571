"""Part of benchmarks.gpu: the whole server with the embedded model, OpenAI's client, and a job of fine-tuning on it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

from benchmarks.gpu_options import Options
from benchmarks.tinylora_process import server
from clients.examples.make_task import GRADER, make_task
from clients.examples.train import MAX_TOKENS, TEMPERATURE

POLL_S = 1.0


def run(options: Options) -> None:
    """Record how long the start took, an answer, and the rewards of the job's steps as they come."""
    directory, results = options.directory / "serve", options.results
    directory.mkdir(exist_ok=True)
    model = Path(os.environ.get("TINYLORA_MODELS_DIR", "models")) / "SmolLM2-135M-Instruct"
    training_file, _ = make_task(directory / "task")
    steps, prompts, completions = options.job
    start = time.monotonic()
    with (
        # It is to show that all works together, and compiling is half of the start.
        server(str(model), directory, eager=True, workers=1) as url,
        OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        results.record("serve", "start_s", value=round(time.monotonic() - start, 1))
        name = client.models.list().data[0].id
        messages: Any = [{"role": "user", "content": "What is 3 + 4? Answer with the number only."}]
        answer = client.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=16)
        results.record("serve", "answer", value=answer.choices[0].message.content)
        uploaded = client.files.create(file=training_file, purpose="fine-tune").id
        reinforcement: Any = {"grader": GRADER, "hyperparameters": {"batch_size": prompts}}
        settings = {
            "group_size": completions, "learning_rate": 0.01, "temperature": TEMPERATURE, "validation_fraction": 0,
            "max_completion_tokens": MAX_TOKENS, "max_steps": steps,
        }  # fmt: skip
        job = client.fine_tuning.jobs.create(
            model=name, training_file=uploaded, seed=0, extra_body={"tinylora": settings},
            method={"type": "reinforcement", "reinforcement": reinforcement},
        )  # fmt: skip
        while job.status not in ("succeeded", "failed", "cancelled"):
            time.sleep(POLL_S)
            job = client.fine_tuning.jobs.retrieve(job.id)
            results.record("serve", "curve", value=curve(client, job.id))
        results.record("serve", "curve", value=curve(client, job.id))
        results.record("serve", "job", value=f"{job.status} in {time.monotonic() - start:.0f} s of the part")
        if job.status != "succeeded":
            sys.exit(f"The job {job.status}: {job.error}")
        answer = client.chat.completions.create(
            model=job.fine_tuned_model or name, messages=messages, temperature=0, max_tokens=16
        )
        results.record("serve", "answer_of_the_tuned", value=answer.choices[0].message.content)


def curve(client: OpenAI, job_id: str) -> list[Any]:
    """Of every step: its number and the mean reward."""
    events: list[Any] = list(client.fine_tuning.jobs.list_events(job_id, limit=100).data)
    metrics = [event.data for event in events if event.type == "metrics"]
    rewards = [(data["step"], data["scores"]["train_reward_mean"]) for data in metrics if data["step"]]
    return sorted([step, None if reward is None else round(reward, 3)] for step, reward in rewards)
