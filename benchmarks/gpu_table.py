"""The table of benchmarks.gpu, of what has been recorded until now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_options import Options
from benchmarks.paired import speed


def print_table(options: Options) -> None:
    """To standard output."""
    found = options.results.read()
    console = Console(width=180, highlight=False)
    if "engines" in found:
        console.print(engines_table(options, found["engines"]))
    if "training" in found:
        console.print(training_table(found["training"]))
    for part in ("machine", "layers", "tokens in a pass", "tests", "serve"):
        if part in found:
            console.print(f"{part}: {found[part]}", markup=False)
    for name, told in found.get("parts", {}).items():
        took = f" after {told['seconds']} s" if "seconds" in told else ""
        console.print(f"{name}: {told['status']}{took}", markup=False)


def engines_table(options: Options, engines: Mapping[str, Mapping[str, Any]]) -> Table:
    """Tokens per second, and the ratio to `base`: median of rounds, lowest and highest."""
    requests, length = options.prefill
    columns = [*(f"{batch} at once" for batch in options.batches), "prefill"]
    table = Table(
        title=f"tokens/s (ratio to base); {options.tokens} tokens a request; prefill: {requests} x {length}; an "
        f"adapter for every request, vLLM's multi-LoRA {options.loras}"
    )
    table.add_column("engine")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("first token: new, warm (ms)", justify="right")
    for name, measured in engines.items():
        if "failed" in measured:
            table.add_row(name, "failed: " + (measured["failed"].strip().splitlines() or ["?"])[-1][:60])
            continue
        first = measured.get("first token")
        told = f"{first['new']}, {first['one']}" if first else ""
        table.add_row(name, *(_cell(name, measured.get(column)) for column in columns), told)
    return table


def _cell(name: str, measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return ""
    seconds: Mapping[str, Sequence[float]] = measured["seconds"]
    ratio = f"  {speed(seconds['base'], seconds[name])}" if name != "base" and "base" in seconds else ""
    return f"{measured['tokens_per_s']:.0f}{ratio}"


def training_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Seconds of an update, and the most memory that it took beside the weights."""
    table = Table(title="an update of the trainer")
    for column in ("", "seconds", "GiB beside the weights"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, str(row["seconds"]), f"{row['bytes_beside_weights'] / 2**30:.2f}")
    return table
