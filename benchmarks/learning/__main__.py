"""Does training 13 numbers raise the reward on rows never trained on? The experiment, with its controls.

    TINYLORA_PYTHON_GRADERS=true TINYLORA_GRADER_RUNS_PER_MINUTE=10000 tinylora serve &
    python -m benchmarks.learning --tasks sums products --arms grpo random cma-es prompt --seeds 0 1 2
    python -m benchmarks.learning.trl_peer --tasks sums --methods rank-1-lora lora-xs vera
    make evidence

Every task (tasks.py; `make reasoning-gym` installs what most of them come from), arm (arms.py, untrained.py) and seed
has a file in --out; one that is finished is left alone. A call that is cut off goes on with its jobs where they were;
what has none (`prompt`, `best-of-n`, all of trl_peer) writes its file at the end, and begins anew. The random rewards
come from a python grader, which the operator has to allow, as he has to allow as many graded answers a minute as are
measured. Arms of a higher rank or with random factors need a server that was started so, and say what is missing. Up to
as many jobs of a task as the worker's --max-jobs are trained together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import asdict, fields
from pathlib import Path

import openai
from openai import AsyncOpenAI

from benchmarks.learning.arms import ARMS
from benchmarks.learning.experiment import Experiment, console
from benchmarks.learning.job import Options
from benchmarks.learning.page import RUNS, task_table
from benchmarks.learning.run_file import read_runs
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.untrained import UNTRAINED

TIMEOUT_S = 900
FLOATS = ("learning_rate", "learning_rate_multiplier", "temperature", "sigma")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("TINYLORA_URL", "http://localhost:8000"))
    parser.add_argument("--out", type=Path, default=RUNS, help="a directory (default: the one of `make evidence`)")
    parser.add_argument("--rows", type=Path, default=Path("data/learning"), help="where rows go (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["sums"])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *UNTRAINED], default=["grpo", "random", "sft"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    for name, default in asdict(Options()).items():
        shown = "the server's" if default is None else default
        kind = float if name in FLOATS else int
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, help=f"of every job (default: {shown})"
        )
    args = parser.parse_args()
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    try:
        is_complete = asyncio.run(_run(args, options))
    except* openai.APIError as errors:
        console.print(f"{args.url}: {_first(errors)} Nothing is lost: the same command goes on.")
        raise SystemExit(1) from None
    for task in args.tasks:
        if runs := read_runs(args.out / task):
            console.print(f"\n{task}\n\n{task_table(runs)}")
    if not is_complete:
        raise SystemExit(1)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _run(args: argparse.Namespace, options: Options) -> bool:
    key = os.environ.get("TINYLORA_API_KEY", "unused")
    async with AsyncOpenAI(base_url=f"{args.url}/v1", api_key=key, max_retries=5, timeout=TIMEOUT_S) as client:
        complete = [
            await Experiment(client, args.out / name, TASKS[name], options, args.rows / name).run(args.arms, args.seeds)
            for name in args.tasks
        ]
    return all(complete)


if __name__ == "__main__":
    main()
