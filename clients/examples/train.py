"""Trains a vector by reinforcement, through the official openai client: python -m clients.examples.train

Files are uploaded, a job is made and watched, and what came of it is evaluated on rows that it did not train on, and
asked a question.

It is a whole program, to be copied; besides tinylora-client it needs clients.evaluation only. With
--serve it starts a server when there is none at the URL, whose worker trains, and ends it afterwards. Where server and
program end before the job does, the next server goes on with it; so does this program with --job.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer
from openai import APIConnectionError
from rich.console import Console
from rich.progress import Progress

from clients.evaluation.accuracy import Estimate
from clients.evaluation.evaluate import Evaluation, Sampling, evaluate
from clients.evaluation.rows import load_rows
from clients.examples.make_task import GRADER, QUESTION, make_task
from tinylora_client import AsyncTinyLoRA, Job, TinyLoRA

MAX_TOKENS = 16
# At 1 a model of this size seldom says the sum that it holds most likely: too few rewards to tell answers apart.
TEMPERATURE = 0.6
START_TIMEOUT_S = 600
# A step takes seconds, and each question a line in the server's log.
POLL_S = 5
# A server that ended does not come back by itself.
PATIENCE_S = 30
SERVER_LOG = Path("data/server.log")
console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a job. eval_samples: of every held-out row; 1 is greedy."""

    steps: int
    batch_size: int
    group_size: int
    learning_rate: float | None
    eval_interval: int
    eval_samples: int
    seed: int


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of training")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in a step")] = 6,
    group_size: Annotated[int, typer.Option(min=2, help="Completions of every prompt")] = 8,
    learning_rate: Annotated[float | None, typer.Option(help="How far a number moves in a step; default auto")] = None,
    eval_interval: Annotated[int, typer.Option(min=1, help="Steps between evaluations on held-out rows")] = 10,
    eval_samples: Annotated[int, typer.Option(min=1, help="Of every held-out row; 1 is greedy")] = 2,
    validation: Annotated[int, typer.Option(min=2, help="Held-out rows")] = 64,
    seed: int = 0,
    job_id: Annotated[str | None, typer.Option("--job", help="Go on watching this job instead of making one")] = None,
    directory: Annotated[Path, typer.Option(help="Where the task's files go")] = Path("data/demo-task"),
    url: Annotated[str, typer.Option(envvar="TINYLORA_URL", help="The server")] = "http://localhost:8000",
    serve: Annotated[bool, typer.Option("--serve", help="Start one if there is none")] = False,
) -> None:
    """Train a vector on small sums, and show what it gained."""
    sizes = Sizes(steps, batch_size, group_size, learning_rate, eval_interval, eval_samples, seed)
    key = os.environ.get("TINYLORA_API_KEY", "unused")
    with _server(url) if serve and not _is_ready(url) else nullcontext():
        client = TinyLoRA(base_url=url, api_key=key)
        try:
            files = make_task(directory, validation, seed)
            if job_id is None:
                job = _create_job(client, files, sizes)
                job_id = job.id
                console.print(f"{job_id} trains {job.tinylora['recipe']['groups']} numbers on {files[0]}")
            job = _watch(client, job_id)
        except APIConnectionError:
            console.print(f"No answer from {url}." + (f" The job is not lost: --job {job_id}" if job_id else ""))
            raise typer.Exit(1) from None
        if job.status != "succeeded" or job.fine_tuned_model is None:
            console.print(f"The job {job.status}: {job.error.message if job.error else 'no reason was given'}")
            raise typer.Exit(1)

        _print_checkpoints(client, job.id)
        models = [client.models.list().data[0].id, job.fine_tuned_model]
        for samples in (1, 4):
            _print_gain(asyncio.run(_evaluate(url, key, models, files[1], samples, seed)), samples)
        for model in models:
            console.print(f"{model}: {_ask(client, model)}")


def _create_job(client: TinyLoRA, files: tuple[Path, Path], sizes: Sizes) -> Job:
    training_file, validation_file = files
    hyperparameters = {name: getattr(sizes, name) for name in ("batch_size", "eval_interval", "eval_samples")}
    reinforcement = {"grader": GRADER, "hyperparameters": hyperparameters}
    return client.fine_tuning.jobs.create(
        training_file=training_file,
        validation_file=validation_file,
        method={"type": "reinforcement", "reinforcement": reinforcement},
        suffix="sums",
        seed=sizes.seed,
        # What OpenAI has no names for.
        tinylora={
            "group_size": sizes.group_size,
            "learning_rate": "auto" if sizes.learning_rate is None else sizes.learning_rate,
            "temperature": TEMPERATURE,
            "max_completion_tokens": MAX_TOKENS,
            "max_steps": sizes.steps,
        },
    )


def _watch(client: TinyLoRA, job_id: str) -> Job:
    """The job when it has ended; prints its events as they come."""
    with Progress(console=console) as progress:
        bar = progress.add_task("steps", total=None)
        for update in client.fine_tuning.jobs.follow(job_id, poll_s=POLL_S, patience_s=PATIENCE_S):
            progress.update(bar, total=update.job.total_steps, completed=update.job.step or 0)
            for event in update.events:
                progress.console.print(f"{event.message}{_timing(event.data)}")
    return update.job


def _timing(data: object) -> str:
    timing = data.get("timing", {}).get("step") if isinstance(data, dict) else None
    return "" if not timing else f"  [{', '.join(f'{name} {seconds:.1f} s' for name, seconds in timing.items())}]"


def _print_checkpoints(client: TinyLoRA, job_id: str) -> None:
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job_id):
        reward = getattr(checkpoint.metrics, "valid_reward_mean", None)
        console.print(f"step {checkpoint.step_number:4}: {checkpoint.fine_tuned_model_checkpoint}  {reward}")


async def _evaluate(url: str, key: str, models: list[str], file: Path, samples: int, seed: int) -> list[Evaluation]:
    rows = load_rows(str(file))
    # Not the seeds by which the best checkpoint was chosen.
    sampling = Sampling(samples, 0.0 if samples == 1 else TEMPERATURE, MAX_TOKENS, seed + 1_000_000)
    async with AsyncTinyLoRA(base_url=url, api_key=key, max_retries=5) as client:
        return [await evaluate(client, model, rows, GRADER, sampling) for model in models]


def _print_gain(evaluations: list[Evaluation], samples: int) -> None:
    before, after = evaluations
    how = "greedy" if samples == 1 else f"{samples} samples at temperature {TEMPERATURE}"
    console.print(
        f"held-out rows, {how}: before {_words(before.pass_at_1)}, after {_words(after.pass_at_1)}, "
        f"gain {_words(after.better_than(before))}"
    )


def _words(of: Estimate) -> str:
    return f"{of.mean:.3f}" + ("" if of.standard_error is None else f" ± {of.standard_error:.3f}")


def _ask(client: TinyLoRA, model: str) -> str:
    question: Any = [{"role": "user", "content": QUESTION.format(3, 4)}]
    answer = client.chat.completions.create(model=model, messages=question, max_tokens=MAX_TOKENS, temperature=0)
    return json.dumps(answer.choices[0].message.content)


@contextmanager
def _server(url: str) -> Iterator[None]:
    """A server of the embedded model on the port of `url`, while inside. What it prints goes to SERVER_LOG."""
    port = urlsplit(url).port or 8000
    command = [str(Path(sys.executable).with_name("tinylora")), "serve", "--port", str(port)]
    # Also whoever ends this program by a signal does not leave a server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console.print(f"Starting a server on port {port}; what it prints goes to {SERVER_LOG}")
    SERVER_LOG.parent.mkdir(parents=True, exist_ok=True)
    with (
        SERVER_LOG.open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            with console.status("It starts: a minute or two"):
                while not _is_ready(url):
                    if process.poll() is not None or time.monotonic() > deadline:
                        # Its reason is what it says last.
                        said = SERVER_LOG.read_text(errors="replace").strip().splitlines()
                        console.print(said[-1] if said else f"The server did not start within {START_TIMEOUT_S} s.")
                        raise typer.Exit(1)
                    time.sleep(1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=10).is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    typer.run(main)
