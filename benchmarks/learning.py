"""Does GRPO on 13 numbers raise the reward on rows never trained on? The experiment, with its controls.

    TINYLORA_PYTHON_GRADERS=true TINYLORA_GRADER_RUNS_PER_MINUTE=10000 tinylora serve &
    python -m benchmarks.learning --tasks sums products --arms grpo random sft cma-es --seeds 0 1 2
    python -m benchmarks.trl_peer --method rank-1-lora --train data/learning/rows/sums/train.jsonl \\
        --validation data/learning/rows/sums/test.jsonl --out data/learning/trl/rank-1-lora-0.json   # lora-xs
    python -m benchmarks.learning --table --trl data/learning/trl/*.json

Every task (tasks.py; `make reasoning-gym` installs what most of them come from), arm (learning_task.py) and seed is a
job of a running server, made through the official openai client; all jobs of a task are created before any is watched,
so that its worker can train them together (as many as its --max-jobs). The server publishes the best checkpoint on the
selection rows and the last one; both are measured on the test rows, as is the base model: greedy, and with 4 samples,
with the same seeds for all.

There is a file per arm and seed, with the scores of every row; it is written as soon as its job exists, so a
call that is cut off goes on where it was, and nothing is trained or measured twice. With other settings than the file's
it refuses. The table (learning_table.py, which says what its error bars are) is made from the files alone.

The README's table was made with `--batch-size 6 --group-size 8 --learning-rate 4e-3 --temperature 0.6
--eval-interval 10 --supervised-batch-size 16`, on sums in another order.

The random rewards come from a python grader, which the operator has to allow, as he has to allow as many graded answers
a minute as are measured. It starts no server, and does not tell a worker what to train together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import openai
from openai import AsyncOpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.learning_table import markdown_table, read_results
from benchmarks.learning_task import ARMS, Files, Options, job_files, job_settings, make_files
from benchmarks.tasks import TASKS, Task
from clients.evaluation.evaluate import Sampling, evaluate
from clients.evaluation.rows import Row, load_rows
from clients.examples.train import ENDS

SAMPLES = 4
# Of the measured samples, whatever a job is trained at.
TEMPERATURE = 0.6
# Not the seeds by which the best checkpoint is chosen.
EVALUATION_SEED = 1_000_000
TIMEOUT_S = 900
Measured = dict[str, dict[str, Any]]
console = Console(highlight=False, markup=False, soft_wrap=True)


class Experiment:
    """The runs of one call. `rows` are the test's; `measuring` lets one model at a time be measured."""

    def __init__(
        self, client: AsyncOpenAI, out: Path, task: Task, options: Options, data: Path, poll_s: float = 5.0
    ) -> None:
        self.client, self.out, self.task, self.options, self.poll_s = client, out, task, options, poll_s
        self.files: Files = make_files(data, task)
        self.rows: list[Row] = load_rows(str(self.files.test))
        self.measuring = asyncio.Lock()
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip

    async def run(self, arms: Sequence[str], seeds: Sequence[int]) -> bool:
        """All arms and seeds; whether all of their jobs succeeded."""
        base_model = (await self.client.models.list()).data[0].id
        with self.progress:
            base = await self._base(base_model)
            runs = [await self._run_of(arm, seed, base_model, base) for seed in seeds for arm in arms]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._finish(run)) for run in runs]
        return all(task.result() for task in tasks)

    async def _base(self, model: str) -> Measured:
        wanted = {"model": model, "temperature": TEMPERATURE, "samples": SAMPLES}
        run = Run(self.out / "base.json", wanted)
        if "scores" not in run.values:
            run.save(scores=await self._measure(model, self.progress.add_task(model, total=None, note="")))
        scores: Measured = run.values["scores"]
        return scores

    async def _run_of(self, arm: str, seed: int, base_model: str, base: Measured) -> Run:
        settings = job_settings(arm, seed, self.task, self.options)
        run = Run(self.out / "results" / f"{arm}-{seed}.json", {"model": base_model, "samples": SAMPLES, **settings})
        if "job" not in run.values:
            ids = []
            for path in job_files(arm, self.files):
                ids.append((await self.client.files.create(file=path, purpose="fine-tune")).id)
            job = await self.client.fine_tuning.jobs.create(
                model=base_model, training_file=ids[0], validation_file=ids[1], **settings
            )
            numbers = ARMS[arm].recipe.num_parameters
            run.save(method=arm, seed=seed, parameters=numbers, bytes=2 * numbers, job=job.id, before=base)
        return run

    async def _finish(self, run: Run) -> bool:
        """Watch the job of `run` to its end, then measure what it made. Whether it succeeded."""
        if "after" in run.values:
            return True
        bar = self.progress.add_task(run.path.stem, total=None, note="")
        job = await self._watch(run.values["job"], bar)
        if job.status != "succeeded" or job.fine_tuned_model is None:
            reason = job.error.message if job.error else "no reason was given"
            console.print(f"{run.path.stem}: the job {job.status}: {reason} To make another one, delete {run.path}")
            run.save(status=job.status, error=reason)
            return False
        last = (await self.client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)).data[0]
        models = {"selected": job.fine_tuned_model, "last": last.fine_tuned_model_checkpoint}
        vectors = {name: await self._vector(model) for name, model in models.items()}
        after: dict[str, Any] = {"selected": await self._measure(models["selected"], bar)}
        is_same = vectors["last"] == vectors["selected"]
        after["last"] = after["selected"] if is_same else await self._measure(models["last"], bar)
        seconds = (job.finished_at or 0) - (getattr(job, "started_at", None) or 0)
        run.save(
            status=job.status, models=models, last_step=last.step_number, vectors=vectors, seconds=seconds,
            steps=await self._steps(job.id), after=after,
        )  # fmt: skip
        self.progress.update(bar, note="done")
        return True

    async def _watch(self, job_id: str, bar: TaskID) -> FineTuningJob:
        while True:
            job: Any = await self.client.fine_tuning.jobs.retrieve(job_id)
            self.progress.update(bar, total=job.total_steps, completed=job.step or 0, note=job.status)
            if job.status in ENDS:
                return job  # type: ignore[no-any-return]
            await asyncio.sleep(self.poll_s)

    async def _measure(self, model: str, bar: TaskID) -> Measured:
        """Accuracy and scores by row, greedy and sampled."""
        measured: Measured = {}
        for how, samples, temperature in (("greedy", 1, 0.0), ("sampled", SAMPLES, TEMPERATURE)):
            async with self.measuring:
                self.progress.reset(bar, total=len(self.rows), note=f"measured, {how}: {model}")
                sampling = Sampling(samples, temperature, self.task.max_tokens, EVALUATION_SEED)
                done = await evaluate(
                    self.client,
                    model,
                    self.rows,
                    self.task.grader,
                    sampling,
                    advance=lambda: self.progress.advance(bar),
                )
            measured[how] = {"accuracy": done.pass_at_1.mean, "tokens": done.tokens, "scores": done.rewards}
            console.print(f"{done.model}, {how}: {done.pass_at_1.mean:.3f}")
            if done.errors:
                console.print(f"{model}: not graded, and counted as wrong: {dict(done.errors)}")
        return measured

    async def _vector(self, model: str) -> str:
        """Its bytes, as hexadecimal."""
        content = await self.client.get(f"/adapters/{model}/vector", cast_to=openai.HttpxBinaryResponseContent)
        return content.content.hex()

    async def _steps(self, job_id: str) -> list[object]:
        """The metrics of every step, which begin with the evaluation before the first one."""
        events = [event async for event in self.client.fine_tuning.jobs.list_events(job_id, limit=100)]
        return [event.data for event in reversed(events) if event.type == "metrics"]


class Run:
    """A file of results and what is in it. Ends the program when that was made with other settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": settings}
        if self.values["settings"] != json.loads(json.dumps(settings)):
            raise SystemExit(f"{path} was made with other settings; choose another --out, or delete it")

    def save(self, **values: Any) -> None:
        self.values |= values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".tmp")
        whole.write_text(json.dumps(self.values) + "\n")
        whole.replace(self.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("TINYLORA_URL", "http://localhost:8000"))
    parser.add_argument("--out", type=Path, default=Path("data/learning"), help="a directory (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["sums"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["grpo", "random", "sft"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    for name, default in asdict(Options()).items():
        kind = float if name in ("learning_rate", "learning_rate_multiplier", "temperature", "sigma") else int
        shown = "the server's" if default is None else default
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, help=f"of every job (default: {shown})"
        )
    parser.add_argument("--table", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--trl", nargs="+", type=Path, default=[], help="results of trl_peer.py, for the table")
    args = parser.parse_args()
    is_complete = True
    if not args.table:
        options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
        try:
            is_complete = asyncio.run(_run(args, options))
        except* openai.APIError as errors:
            console.print(f"{args.url}: {_first(errors)} Nothing is lost: the same command goes on.")
            raise SystemExit(1) from None
    for task in args.tasks:
        console.print(f"\n{task}\n\n{markdown_table(read_results(args.out / task, args.trl))}")
    if not is_complete:
        raise SystemExit(1)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _run(args: argparse.Namespace, options: Options) -> bool:
    key = os.environ.get("TINYLORA_API_KEY", "unused")
    async with AsyncOpenAI(base_url=f"{args.url}/v1", api_key=key, max_retries=5, timeout=TIMEOUT_S) as client:
        complete = [
            await Experiment(client, args.out / name, TASKS[name], options, args.out / "rows" / name).run(
                args.arms, args.seeds
            )
            for name in args.tasks
        ]
    return all(complete)


if __name__ == "__main__":
    main()
