"""`tinylora eval`: accuracy of the base model and of adapters on the same rows, as a table, as JSON and as a chart.

What is heavy is imported when the command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli import evaluation_report as report
from clients.cli.calls import DEFAULT_URL, AsJson, Url, check_writable, fail, writing

if TYPE_CHECKING:
    from clients.evaluation.evaluate import Evaluation, Sampling
    from clients.evaluation.rows import Row


def evaluate(
    data: Annotated[str, typer.Argument(help="JSONL as for training, or gsm8k, math500, aime24, amc23, ...")],
    adapter: Annotated[list[str] | None, typer.Option(help="An adapter; may be given several times")] = None,
    base: Annotated[bool, typer.Option(help="The base model too")] = True,
    grader: Annotated[
        Path | None, typer.Option(help="A grader as JSON; default: math, against `answer`", exists=True, dir_okay=False)
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-k", min=1, max=128, help="Of every row")] = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Default: 0, greedy, with one sample, else 1", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Rows at a time")] = 32,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(metavar="JSON", help="As the job's: what the chat template is given beside messages")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Everything, with all answers, as JSON")] = None,
    plot: Annotated[Path | None, typer.Option(help="A chart, as SVG")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure accuracy: of the base model, of adapters, and what the adapters gain on the same rows."""
    from clients.evaluation.evaluate import MATH, NoRewards, Sampling
    from clients.evaluation.public_sets import RowsError
    from clients.evaluation.rows import load_rows

    if temperature is None:
        temperature = 0.0 if samples == 1 else 1.0
    if samples > 1 and temperature == 0:
        fail(f"--temperature is 0 and --samples {samples}: greedy samples are all the same; raise it, or take one")
    if not base and not adapter:
        fail("there is nothing to evaluate: give an --adapter, or leave out --no-base")
    wanted = MATH if grader is None else _grader(grader)
    try:
        rows = load_rows(data, limit)
    except RowsError as error:
        fail(str(error))
    sampling = Sampling(samples, temperature, max_tokens, seed, _kwargs(chat_template_kwargs))
    for file in filter(None, (output, plot)):
        check_writable(file)
    try:
        checked, evaluations = _run(url, base, adapter or [], rows, wanted, sampling, concurrency)
        summary = report.summary_of(data, len(rows), checked, sampling, evaluations, base)
    except NoRewards as error:
        fail(str(error))
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        report.print_table(summary)
    if output is not None:
        answers = {one.model: [list(map(asdict, row)) for row in one.samples] for one in evaluations}
        with writing(output):
            output.write_text(json.dumps({**summary, "answers": answers}, indent=1) + "\n")
    if plot is not None:
        with writing(plot):
            plot.write_text(report.chart_of(summary, evaluations))


def _kwargs(text: str | None) -> dict[str, Any]:
    try:
        value = {} if text is None else json.loads(text)
    except ValueError as error:
        fail(f"--chat-template-kwargs is {text!r}, which is not JSON: {error}")
    if not isinstance(value, dict):
        fail(f'--chat-template-kwargs is {text!r}, expected an object such as {{"enable_thinking": false}}')
    return value


def _grader(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        fail(f"the grader {file} is not JSON: {error}")
    if not isinstance(value, dict):
        fail(f'the grader {file} is not an object, expected such as {{"type": "math", "reference": "..."}}')
    if "environment" in value or _is_of_environment(value):
        fail(
            f"the grader {file} takes the reward of an environment, and tinylora eval plays none: each model gives one "
            "answer to each row. A job plays it on its held-out rows before its first step, and tells the reward: "
            "tinylora train --config JOB.yaml --max-steps 1, with --model ADAPTER for an adapter's"
        )
    return value


def _is_of_environment(grader: Mapping[str, Any]) -> bool:
    """Whether a grader's score, or a part of it, is what an environment says."""
    parts = grader.get("graders")
    several = parts.values() if isinstance(parts, Mapping) else ()
    return any(isinstance(one, Mapping) and one.get("type") == "environment" for one in (grader, *several))


def _run(
    url: str,
    base: bool,
    adapters: Sequence[str],
    rows: Sequence[Row],
    grader: Mapping[str, Any],
    sampling: Sampling,
    concurrency: int,
) -> tuple[dict[str, Any], list[Evaluation]]:
    import asyncio

    import openai
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from clients.cli.client import async_client, sentences
    from clients.evaluation import evaluate as core
    from tinylora_client.answer_check import base_model_of

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    async def run() -> tuple[dict[str, Any], list[Evaluation]]:
        async with async_client(url, max_retries=5) as client:
            # Before the first is sampled for minutes: is everything there? Nobody waits for a server that is not.
            once = client.with_options(max_retries=0)
            checked = await core.checked_grader(once, grader)
            models = [base_model_of((await once.models.list()).data)] if base else []
            models += [await core.exact_name(once, adapter) for adapter in adapters]
            done = []
            with Progress(*columns, console=Console(stderr=True)) as progress:
                for model in models:
                    task = progress.add_task(model, total=len(rows))
                    evaluation = await core.evaluate(
                        client,
                        model,
                        rows,
                        grader,
                        sampling,
                        concurrency=concurrency,
                        advance=lambda task=task: progress.advance(task),  # type: ignore[misc]
                    )
                    done.append(evaluation)
            return checked, done

    with sentences(url):
        try:
            return asyncio.run(run())
        except* openai.OpenAIError as errors:
            raise _first(errors) from None
    raise AssertionError("errors end the command")


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
