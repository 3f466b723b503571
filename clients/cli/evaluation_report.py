"""What `tinylora eval` found: as JSON, as a table for people, and as a chart.

It has everything that could make two figures incomparable: the grader with its defaults (where it looks for answers,
above all), the sampling, the number of rows. Nothing is rounded in the JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clients.cli.calls import say

if TYPE_CHECKING:
    from clients.evaluation.accuracy import Estimate
    from clients.evaluation.evaluate import Evaluation, Sampling

_COUNTED = "and count as the worst, or not where the grader itself failed"


def summary_of(
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
    return {"data": data, "rows": rows, "grader": dict(grader), "sampling": asdict(sampling), "models": models}


def _shown(of: Estimate) -> dict[str, Any]:
    interval = None if of.interval is None else list(of.interval)
    return {"mean": of.mean, "standard_error": of.standard_error, "wilson_95": interval}


def print_table(summary: Mapping[str, Any]) -> None:
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
            say(f"{one['model']}: {count} answers could not be graded, {_COUNTED}: {message}")


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


def chart_of(summary: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    from clients.evaluation.bar_chart import Bar, bar_chart

    bars = []
    for one in evaluations:
        estimate = one.pass_at_1
        error = estimate.standard_error or 0.0
        low, high = estimate.interval or (estimate.mean - 1.96 * error, estimate.mean + 1.96 * error)
        bars.append(Bar(one.model, estimate.mean, low, high))
    return bar_chart(f"{summary['data']}: pass@1 with 95 % intervals", _how(summary), bars)
