"""`tinylora eval`: accuracy of the base model and of adapters on the same rows, as a table, as JSON and as a chart.

The output has everything that could make two figures incomparable: the grader with its defaults (where it looks for
answers, above all), the sampling, the number of rows. Nothing is rounded in the JSON.

What is heavy is imported when the command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, key_of_environment, say

if TYPE_CHECKING:
    from clients.evaluation.accuracy import Estimate
    from clients.evaluation.evaluate import Evaluation, Sampling
    from clients.evaluation.rows import Row

TIMEOUT_S = 600


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
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Everything, with all answers, as JSON")] = None,
    plot: Annotated[Path | None, typer.Option(help="A chart, as SVG")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure accuracy: of the base model, of adapters, and what the adapters gain on the same rows."""
    from clients.evaluation.evaluate import MATH, Sampling
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
    sampling = Sampling(samples, temperature, max_tokens, seed)
    checked, evaluations = _run(url, base, adapter or [], rows, wanted, sampling, concurrency)
    summary = _summary(data, len(rows), checked, sampling, evaluations, base)
    if output is not None:
        answers = {one.model: [[vars_of(sample) for sample in row] for row in one.samples] for one in evaluations}
        output.write_text(json.dumps({**summary, "answers": answers}, indent=1) + "\n")
    if plot is not None:
        plot.write_text(_chart(summary, evaluations))
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        _print_table(summary)


def vars_of(sample: Any) -> dict[str, Any]:
    """The fields of a dataclass with slots."""
    return {name: getattr(sample, name) for name in type(sample).__slots__}


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

    from clients.cli.client import words_of
    from clients.evaluation import evaluate as core

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    async def run() -> tuple[dict[str, Any], list[Evaluation]]:
        key = key_of_environment() or "unused"
        address = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        async with openai.AsyncOpenAI(base_url=address, api_key=key, timeout=TIMEOUT_S, max_retries=5) as client:
            # Before the first is sampled for minutes: is everything there? Nobody waits for a server that is not.
            once = client.with_options(max_retries=0)
            checked = await core.checked_grader(once, grader)
            models = [(await once.models.list()).data[0].id] if base else []
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

    try:
        return asyncio.run(run())
    except* openai.APIStatusError as errors:
        fail(words_of(_first(errors)))
    except* openai.APIConnectionError:
        fail(f"no answer of a TinyLoRA server from {url}")
    raise AssertionError("both branches end the command")


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _summary(
    data: str,
    rows: int,
    grader: Mapping[str, Any],
    sampling: Sampling,
    evaluations: Sequence[Evaluation],
    base: bool,
) -> dict[str, Any]:
    """All that is known but the answers, as JSON."""
    models = []
    for number, one in enumerate(evaluations):
        majority = _shown(one.majority) if sampling.samples > 1 else None
        gain = _shown(one.better_than(evaluations[0])) if base and number else None
        models.append(
            {
                "model": one.model,
                "pass_at_1": _shown(one.pass_at_1),
                f"majority_at_{sampling.samples}": majority,
                "better_than_base": gain,
                "tokens_mean": one.tokens,
                "truncated_share": one.truncated,
                "grader_errors": dict(one.errors),
            }
        )
    return {"data": data, "rows": rows, "grader": dict(grader), "sampling": vars_of(sampling), "models": models}


def _shown(of: Estimate) -> dict[str, Any]:
    interval = None if of.interval is None else list(of.interval)
    return {"mean": of.mean, "standard_error": of.standard_error, "wilson_95": interval}


def _print_table(summary: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    samples = summary["sampling"]["samples"]
    majority = f"majority_at_{samples}"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    titles = ["pass@1", "95 %", *([f"maj@{samples}"] if samples > 1 else []), "gain", "tokens", "cut off", "errors"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for one in summary["models"]:
        interval = one["pass_at_1"]["wilson_95"]
        table.add_row(
            one["model"],
            _percent(one["pass_at_1"]),
            "" if interval is None else f"{100 * interval[0]:.1f} - {100 * interval[1]:.1f}",
            *([_percent(one[majority])] if samples > 1 else []),
            "" if one["better_than_base"] is None else _percent(one["better_than_base"], "+"),
            f"{one['tokens_mean']:.0f}",
            f"{one['truncated_share']:.0%}",
            str(sum(one["grader_errors"].values()) or ""),
        )
    # What is read by a program has no width.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)
    say(_how(summary))
    for one in summary["models"]:
        for message, count in one["grader_errors"].items():
            say(f"{one['model']}: {count} answers could not be graded and count as 0: {message}")


def _percent(estimate: Mapping[str, Any], sign: str = "") -> str:
    error = estimate["standard_error"]
    return f"{100 * estimate['mean']:{sign}.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def _how(summary: Mapping[str, Any]) -> str:
    grader, sampling = summary["grader"], summary["sampling"]
    kind = grader.get("equality", grader["type"])
    if kind == "math":  # shown as a string_check
        kind += f" (the first found of: {', '.join(grader['extract'])})"
    sampled = "greedy" if sampling["temperature"] == 0 else f"{sampling['samples']} at temperature "
    sampled += "" if sampling["temperature"] == 0 else f"{sampling['temperature']:g}, seed {sampling['seed']}"
    return (
        f"{summary['rows']} rows of {summary['data']}; grader {kind}, the same for all; {sampled}; "
        f"at most {sampling['max_tokens']} tokens; percent ± standard error over rows"
    )


def _chart(summary: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    from clients.evaluation.bar_chart import Bar, bar_chart

    bars = []
    for one in evaluations:
        estimate = one.pass_at_1
        error = estimate.standard_error or 0.0
        low, high = estimate.interval or (estimate.mean - 1.96 * error, estimate.mean + 1.96 * error)
        bars.append(Bar(one.model, estimate.mean, low, high))
    return bar_chart(f"{summary['data']}: pass@1 with 95 % intervals", _how(summary), bars)
