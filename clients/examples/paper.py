"""Trains with the settings of the TinyLoRA paper (arXiv 2602.04118): python -m clients.examples.paper

The training set comes from the Hugging Face hub, or from a copy of it; the job is made on a server that runs, and its
events are printed until it ends; then, the commands that evaluate it on the paper's sets.

What the paper does not say is the server's default: the learning rate (it tried 1e-7 to 2e-4 and took the best of each
size), the schedule, the clipping, how P is drawn. The vector has 13 numbers; --groups gives the paper's others.
Of MATH it takes the 8,523 hardest problems of SimpleRL; here are the problems of levels 3 to 5 that are not in MATH500.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from openai import APIConnectionError, APIStatusError
from rich.console import Console

from clients.evaluation.evaluate import MATH
from clients.evaluation.public_sets import RowsError, write_set
from tinylora_client import Job, TinyLoRA

POLL_S = 20
console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Preset:
    """train: the set to train on. settings: of the job, as in its `tinylora`. evaluated: the sets to evaluate on."""

    train: str
    settings: Mapping[str, Any]
    evaluated: tuple[str, ...]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # Section 5.1: GRPO, exact match, 3 epochs, 4 samples of a problem, batches of 64, no KL, 4096 tokens.
        "paper-gsm8k": Preset(
            "gsm8k-train",
            {"group_size": 4, "batch_size": 64, "epochs": 3, "kl_coef": 0.0, "max_completion_tokens": 4096},
            ("gsm8k",),
        ),
        # Section 5.2, as SimpleRL: batches of 256, 8 samples at temperature 1, KL 0.001, 3072 tokens.
        "paper-math": Preset(
            "math-hard",
            {
                "group_size": 8,
                "batch_size": 256,
                "temperature": 1.0,
                "kl_coef": 0.001,
                "max_completion_tokens": 3072,
            },
            ("gsm8k", "math500", "minerva", "olympiad", "aime24", "amc23"),
        ),
    }
)


def main(
    preset: Annotated[str, typer.Option(help=f"The settings: {' or '.join(PRESETS)}")] = "paper-gsm8k",
    groups: Annotated[int, typer.Option(min=1, help="Numbers of the vector")] = 13,
    learning_rate: Annotated[float | None, typer.Option(help="Default: the server's")] = None,
    max_completion_tokens: Annotated[int | None, typer.Option(min=1, help="Default: the paper's")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Default: as many as the epochs have")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of the set")] = None,
    seed: int = 0,
    copies: Annotated[Path | None, typer.Option(help="Copies of the sets' repositories", file_okay=False)] = None,
    directory: Annotated[Path, typer.Option(help="Where the set goes")] = Path("data/sets"),
    url: Annotated[str, typer.Option(envvar="TINYLORA_URL", help="The server")] = "http://localhost:8000",
) -> None:
    """Train as in the TinyLoRA paper."""
    if preset not in PRESETS:
        console.print(f"There is no preset {preset!r}; those are {', '.join(PRESETS)}.")
        raise typer.Exit(1)
    chosen = PRESETS[preset]
    given = {"learning_rate": learning_rate, "max_completion_tokens": max_completion_tokens, "max_steps": max_steps}
    settings = {**chosen.settings, **{name: value for name, value in given.items() if value is not None}}
    settings["recipe"] = {"groups": groups}
    try:
        written = write_set(chosen.train, directory, limit, copies)
    except RowsError as error:
        console.print(str(error))
        raise typer.Exit(1) from None
    console.print(written.sentence)
    with TinyLoRA(base_url=url) as client:
        try:
            job = _watch(client, create_job(client, written.file, preset, settings, seed))
        except APIStatusError as error:
            console.print(f"The server refuses it: {error.message}")
            raise typer.Exit(1) from None
        except APIConnectionError:
            console.print(f"No answer from {url}; a job that was made goes on there.")
            raise typer.Exit(1) from None
    if job.status != "succeeded" or job.fine_tuned_model is None:
        console.print(f"The job {job.status}: {job.error.message if job.error else 'no reason was given'}")
        raise typer.Exit(1)
    adapter = job.fine_tuned_model
    console.print("To evaluate it, with the base model beside it:")
    for name in chosen.evaluated:
        tokens = settings["max_completion_tokens"]
        console.print(f"  tinylora eval {name} --adapter {adapter} --max-tokens {tokens} --url {url}")


def create_job(client: TinyLoRA, file: Path, preset: str, settings: Mapping[str, Any], seed: int) -> Job:
    """A job on `file` with the server's base model and the `settings`, as in `tinylora`. Raises openai's errors."""
    reinforcement = {"grader": {**MATH, "extract": ["boxed"]}}
    job = client.fine_tuning.jobs.create(
        training_file=file,
        method={"type": "reinforcement", "reinforcement": reinforcement},
        suffix=preset,
        seed=seed,
        metadata={"preset": preset},
        tinylora=settings,
    )
    console.print(f"{job.id} trains on {file}")
    return job


def _watch(client: TinyLoRA, job: Job) -> Job:
    """The job when it has ended; prints its events as they come."""
    for update in client.fine_tuning.jobs.follow(job.id, poll_s=POLL_S):
        for event in update.events:
            console.print(event.message)
    return update.job


if __name__ == "__main__":
    typer.run(main)
