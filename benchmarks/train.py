"""Seconds of a training step, for 1, 2, 4 and 16 jobs at once, and for TRL with PEFT on the same batch.

    python -m benchmarks.train [--jobs 1 4] [--steps 5] [--rounds 3] [--no-peer]

A server with data of its own is started, and for every number of jobs a worker that takes them all: the weights are
read once, then all jobs begin together. The client is openai's, the task clients.examples.make_task's; nothing is
evaluated. The first step of every job is warm-up and not counted. A round measures every row once, one right after the
other (benchmarks.paired), so that what else the machine does is the same for all of them.

sampling, grading, update, step: seconds per step and job, means of what the events of steps say (`update` is their
`training`: both passes, the optimiser, waiting for a pass of other jobs); of rounds the median. Graders work while the
engine samples, so `grading` is only what was left when it had ended. Completions and trained tokens per second are of
all jobs together, from when all had done a step to the end of the last one. Trained are the tokens of prompts and
completions that go through both passes. We leave out groups whose rewards are all the same, and TRL does not. So
rewards are the likeness to the answer, which tells nearly any two completions apart: both do the same work, and no job
ends because it has nothing to learn. `ratio`, to the first row, is of completions per second; it is taken within each
round, and is the median, with the lowest and the highest.

One step ahead (`max_off_policy_steps` 1), a job samples a step during the update of the one before. As many jobs as in
the first row do that, each with one step more than is counted: what is counted begins and ends behind an update, and
would have one sampling less than updates otherwise.

TRL (benchmarks.learning.trl_training: tinylora) trains at the priority of our worker, while our server has nothing to
do; our server and worker share the machine. An update alone, against the model's own passes, is
benchmarks.train_step's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from benchmarks.paired import in_turn, speed
from benchmarks.tinylora_process import environment, running, server
from clients.examples.make_task import make_task
from clients.examples.train import MAX_TOKENS, TEMPERATURE
from server.launch.own_worker_plan import NICE

GRADER = {
    "type": "text_similarity",
    "name": "likeness",
    "evaluation_metric": "fuzzy_match",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
}
PARTS = ("sampling", "grading", "update", "step")
# Their names in the timing of a step's event, and in the peer's result.
OURS = {"sampling": "sampling", "grading": "grading", "update": "training", "step": "full_iteration"}
PEERS = {"sampling": "generation", "grading": "grading", "update": "update", "step": "step"}
MAX_JOBS = 64
LEARNING_RATE = 4e-3
POLL_S = 0.3
PATIENCE_S = 1800


@dataclass(frozen=True)
class Row:
    """seconds: per step and job, by part."""

    seconds: dict[str, float]
    completions_per_s: float
    tokens_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument(
        "--jobs", nargs="+", type=int, default=[1, 2, 4, 16], help="at once, one number after the other"
    )
    parser.add_argument("--steps", type=int, default=3, help="of each job, the first one not counted")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which every row is measured")
    parser.add_argument("--batch-size", type=int, default=2, help="prompts in a step")
    parser.add_argument("--group-size", type=int, default=8, help="completions of every prompt")
    parser.add_argument("--eager", action="store_true", help="without compilation, which makes the server start sooner")
    parser.add_argument("--no-peer", action="store_true", help="without TRL")
    args = parser.parse_args()
    if args.steps < 2 or args.rounds < 1 or not all(1 <= jobs <= MAX_JOBS for jobs in args.jobs):
        parser.error(f"expected at least 2 steps and a round, and 1 to {MAX_JOBS} jobs at once")

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        training_file, _ = make_task(directory / "task")
        with (
            server(args.model, directory, eager=args.eager) as url,
            OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
        ):
            uploaded = client.files.create(file=training_file, purpose="fine-tune").id
            runs: dict[str, Callable[[], Row]] = {
                _label(jobs): partial(measure, client, url, args, uploaded, jobs, directory) for jobs in args.jobs
            }
            first = args.jobs[0]
            runs[f"{_label(first)}, one step ahead"] = partial(
                measure, client, url, args, uploaded, first, directory, ahead=1
            )
            if not args.no_peer:
                runs["TRL + PEFT"] = partial(peer, args, training_file)
            print_table(args, in_turn(runs, args.rounds))


def _label(jobs: int) -> str:
    return f"tinylora, {jobs} {'job' if jobs == 1 else 'jobs'}"


def measure(
    client: OpenAI, url: str, args: argparse.Namespace, file: str, count: int, directory: Path, *, ahead: int = 0
) -> Row:
    """So many jobs together, by a new worker. ahead: steps that they sample before the update of the one before."""
    print(f"... {count} at once{', one step ahead' if ahead else ''}", file=sys.stderr, flush=True)
    ids = [create_job(client, args, file, seed, ahead) for seed in range(count)]
    log = directory / "worker.txt"
    command = ["worker", "--url", url, "--model", args.model, "--max-jobs", str(MAX_JOBS), "--nice", str(NICE)]
    with running([*command, "--log-dir", str(directory / "log")], environment(directory), log) as worker:
        deadline = time.monotonic() + PATIENCE_S
        beginning = end = None
        while True:
            jobs = states(client, ids)
            if beginning is None and all((job.step or 0) >= 1 for job in jobs):
                beginning = time.perf_counter(), jobs
            if end is None and all((job.step or 0) >= args.steps for job in jobs):
                end = time.perf_counter(), jobs
            if all(job.status == "succeeded" for job in jobs):
                break
            if worker.poll() is not None:
                sys.exit(f"The worker ended while jobs were waiting for it:\n{log.read_text()}")
            if time.monotonic() > deadline or any(job.status in ("failed", "cancelled") for job in jobs):
                sys.exit(f"A job did not succeed: {[(job.status, job.error) for job in jobs]}\n{log.read_text()}")
            time.sleep(POLL_S)
        assert beginning is not None and end is not None
        (began, before), (ended, after) = beginning, end
    timings = [timing for job_id in ids for timing in timings_of(client, job_id, args.steps)]
    seconds = {part: statistics.fmean(timing[name] for timing in timings) for part, name in OURS.items()}
    steps_per_s, tokens_per_s = rates(before, after, ended - began)
    return Row(seconds, steps_per_s * args.batch_size * args.group_size, tokens_per_s)


def rates(before: Sequence[Any], after: Sequence[Any], wall_s: float) -> tuple[float, float]:
    """Steps and trained tokens a second of jobs that were as in `before`, and so much later as in `after`."""
    steps = sum(job.step for job in after) - sum(job.step for job in before)
    if not steps:
        sys.exit("All jobs had ended when they were first looked at behind their first step; more --steps are needed.")
    tokens = sum(job.trained_tokens for job in after) - sum(job.trained_tokens for job in before)
    return steps / wall_s, tokens / wall_s


def create_job(client: OpenAI, args: argparse.Namespace, file: str, seed: int, ahead: int) -> str:
    reinforcement: Any = {"grader": GRADER, "hyperparameters": {"batch_size": args.batch_size}}
    settings = {
        "group_size": args.group_size, "learning_rate": LEARNING_RATE, "temperature": TEMPERATURE,
        "max_completion_tokens": MAX_TOKENS, "max_steps": args.steps + ahead, "validation_fraction": 0,
        "max_off_policy_steps": ahead,
    }  # fmt: skip
    job = client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=file,
        method={"type": "reinforcement", "reinforcement": reinforcement},
        seed=seed,
        extra_body={"tinylora": settings},
    )
    return job.id


def states(client: OpenAI, ids: Sequence[str]) -> list[Any]:
    """All in one request, so that watching them costs the server little."""
    newest = {job.id: job for job in client.fine_tuning.jobs.list(limit=100).data}
    return [newest[job_id] for job_id in ids]


def timings_of(client: OpenAI, job_id: str, last: int) -> list[dict[str, float]]:
    """Of the second step to the last one that counts."""
    events: list[Any] = [event for event in client.fine_tuning.jobs.list_events(job_id) if event.type == "metrics"]
    return [event.data["timing"]["step"] for event in events if 1 < event.data["step"] <= last]


def peer(args: argparse.Namespace, training_file: Path) -> Row:
    print("... TRL and PEFT", file=sys.stderr, flush=True)
    options = {
        "--method": "tinylora", "--model": args.model, "--train": training_file, "--steps": args.steps,
        "--batch-size": args.batch_size, "--group-size": args.group_size, "--learning-rate": LEARNING_RATE,
        "--temperature": TEMPERATURE, "--max-completion-tokens": MAX_TOKENS,
        "--grader": json.dumps(GRADER),
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    command = ["nice", "-n", str(NICE), sys.executable, "-m", "benchmarks.learning.trl_training", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"TRL failed:\n{done.stdout}{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    seconds = {part: result["seconds"][name] for part, name in PEERS.items()}
    completions = args.batch_size * args.group_size
    return Row(seconds, completions / seconds["step"], result["trained_tokens"] / seconds["step"])


def print_table(args: argparse.Namespace, rows: Mapping[str, Sequence[Row]]) -> None:
    """rows: of every round, by label; the first label is what the others are compared with."""
    table = Table(title=f"{args.batch_size} prompts x {args.group_size} completions a step (seconds per step and job)")
    table.add_column("")
    for column in (*PARTS, "completions/s", "ratio", "trained tokens/s"):
        table.add_column(column, justify="right")
    # Of a completion.
    seconds = {label: [1 / row.completions_per_s for row in those] for label, those in rows.items()}
    base_s = next(iter(seconds.values()))
    for label, those in rows.items():
        table.add_row(
            label,
            *(f"{statistics.median(row.seconds[part] for row in those):.2f}" for part in PARTS),
            f"{statistics.median(row.completions_per_s for row in those):.2f}",
            str(speed(base_s, seconds[label])),
            f"{statistics.median(row.tokens_per_s for row in those):.0f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
