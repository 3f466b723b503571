"""`tinylora train`: makes a training job of a file and a few flags, or of a YAML file, and watches it.

What is heavy is imported when the command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, say


def train(
    data: Annotated[str | None, typer.Argument(help="JSONL to train on, or the id of an uploaded file")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The job as YAML, in the shape of the API", exists=True, dir_okay=False),
    ] = None,
    method: Annotated[str | None, typer.Option(help="reinforcement (default), supervised or evolution")] = None,
    grader: Annotated[
        str | None, typer.Option(help="A file of one, JSON or YAML; default: math, against each row's `answer`")
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Held-out rows; default: a part of the data")] = None,
    model: Annotated[str | None, typer.Option(help="An adapter to go on from; default: the base model")] = None,
    suffix: Annotated[str | None, typer.Option(help="A part of the new adapter's name")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps of training")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows in a step")] = None,
    group_size: Annotated[int | None, typer.Option(min=2, help="Completions of every prompt")] = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Of the rate that is measured")] = None,
    max_completion_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a completion")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of the completions")] = None,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: kl_coef=0.01, recipe.groups=1; repeatable")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Only make the job")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Train a vector, watch its rewards, and print the name of the adapter that comes of it.

    Ctrl-C leaves the job alone. With --json the job is printed, as it is made with --detach, else as it ended.
    """
    from clients.cli.client import connected
    from clients.cli.job_spec import SpecError, parse_settings, read_spec, with_flags
    from clients.cli.watch import watch

    settings = {
        "max_steps": max_steps,
        "batch_size": batch_size,
        "group_size": group_size,
        "learning_rate_multiplier": learning_rate_multiplier,
        "max_completion_tokens": max_completion_tokens,
        "temperature": temperature,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        job = with_flags(
            {} if config is None else read_spec(config),
            method=method,
            grader=grader,
            settings={**given, **parse_settings(more or [])},
            training_file=data,
            validation_file=validation,
            model=model,
            suffix=suffix,
            seed=seed,
        )
    except SpecError as error:
        fail(str(error))
    with connected(url) as client:
        made = client.fine_tuning.jobs.create(**job)
        if detach:
            _print(made, made.id, as_json)
            return
        say(f"{made.id} trains on {Path(str(job['training_file'])).name}; Ctrl-C leaves it alone.")
        done = watch(client, made.id)
    _print(done, str(done.fine_tuned_model), as_json)


def _print(job: Any, name: str, as_json: bool) -> None:
    print(json.dumps(job.to_dict()) if as_json else name)
