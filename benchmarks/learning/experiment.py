"""The runs of one task: jobs of a running server, made through the official openai client, and what became of them.

All jobs of a task are created before any is watched, so that the server's worker can train them together. The server
publishes the best checkpoint on the rows to select by, and the last one; both are measured on the test rows.

A run's file is written as soon as its job exists, so a call that is cut off goes on where it was, and nothing is
trained or measured twice.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import openai
from openai import AsyncOpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.learning.arms import ARMS
from benchmarks.learning.job import Files, Options, Part, job_files, job_settings, make_files
from benchmarks.learning.measuring import SAMPLES, TEMPERATURE, measure, measure_constant
from benchmarks.learning.run_file import BASE, Run, rows_digest
from benchmarks.learning.tasks import Task
from benchmarks.learning.untrained import UNTRAINED, Choice, best_prompt, best_vector, commonest_answer
from benchmarks.learning.votes import write_voted
from clients.evaluation.rows import Row, load_rows
from tinylora_client.job_operations import ENDS

# Of a step's metrics; the others are in the job's events for as long as the server keeps them.
KEPT = (
    "step",
    "train_reward_mean",
    "valid_reward_mean",
    "flat_share",
    "entropy",
    "v_norm",
    "step_kl",
    "truncated_share",
)
console = Console(highlight=False, markup=False, soft_wrap=True)


class Experiment:
    """The runs of a task in `out`; its rows are written to `data`. One model at a time is measured."""

    def __init__(
        self, client: AsyncOpenAI, out: Path, task: Task, options: Options, data: Path, poll_s: float = 5.0
    ) -> None:
        self.client, self.out, self.task, self.options, self.poll_s = client, out, task, options, poll_s
        self.files: Files = make_files(data, task)
        self.rows: list[Row] = load_rows(str(self.files.of("test")))
        self.digest = rows_digest(self.files, task)
        self.factors: Mapping[str, Any] = {}
        self.measuring = asyncio.Lock()
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip

    async def run(self, arms: Sequence[str], seeds: Sequence[int]) -> bool:
        """All arms and seeds; whether all of their jobs succeeded."""
        base: Any = (await self.client.models.list()).data[0]
        model, self.factors = base.id, base.factors
        for arm in arms:
            if arm in ARMS and (why := ARMS[arm].why_not_on(self.factors)) is not None:
                raise SystemExit(f"{arm}: {why}")
        with self.progress:
            await self._base(model)
            if any(arm in ARMS and ARMS[arm].rewards == "majority" for arm in arms):
                await self._vote(model)
            runs = [await self._begun(arm, seed, model) for seed in seeds for arm in arms]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._finish(run, model)) for run in runs]
        return all(task.result() for task in tasks)

    async def _base(self, model: str) -> None:
        run = Run(
            self.out / f"{BASE}.json", {"model": model, "temperature": TEMPERATURE, "samples": SAMPLES}, self.digest
        )
        if "scores" not in run.values:
            run.save(scores=await self._measure(model, self.rows, self._bar(model)))

    async def _vote(self, model: str) -> None:
        bar = self._bar("majority votes")
        parts: tuple[Part, ...] = ("train", "select")
        for part in parts:
            rows, voted = self.files.of(part), self.files.of(part, "voted")
            await write_voted(self.client, model, self.task, rows, voted, partial(self.progress.advance, bar))

    async def _begun(self, arm: str, seed: int, model: str) -> Run:
        common = {"model": model, "samples": SAMPLES}
        path = self.out / f"{arm}-{seed}.json"
        if arm in UNTRAINED:
            run = Run(path, common, self.digest)
            run.save(arm=arm, seed=seed, machine=machine())
            return run
        settings = job_settings(arm, seed, self.task, self.options)
        run = Run(path, {**common, **settings}, self.digest)
        if "job" not in run.values or ("after" not in run.values and await self._is_gone(run.values["job"])):
            ids = [
                (await self.client.files.create(file=file, purpose="fine-tune")).id
                for file in job_files(arm, self.files)
            ]
            job: Any = await self.client.fine_tuning.jobs.create(
                model=model, training_file=ids[0], validation_file=ids[1], **settings
            )
            run.save(
                arm=arm, seed=seed, parameters=ARMS[arm].recipe.num_parameters, machine=machine(), job=job.id,
                factors=self.factors, defaults=job.tinylora,
            )  # fmt: skip
        return run

    async def _is_gone(self, job_id: str) -> bool:
        """Whether the server knows nothing of the job: it was made on another one."""
        try:
            await self.client.fine_tuning.jobs.retrieve(job_id)
        except openai.NotFoundError:
            return True
        return False

    async def _finish(self, run: Run, model: str) -> bool:
        """Watch the job of `run` to its end, then measure what it made. Whether it succeeded."""
        if "after" in run.values:
            return True
        if run.values["arm"] == "constant":
            answer = commonest_answer(load_rows(str(self.files.of("train"))))
            run.save(found={"answer": answer}, after={"last": measure_constant(answer, self.rows)})
            return True
        bar = self._bar(run.path.stem)
        if run.values["arm"] in UNTRAINED:
            choice = await self._chosen(run.values["arm"], run.values["seed"], model, bar)
            run.save(found=choice.found, after={"last": await self._measure(choice.model, choice.rows, bar)})
            return True
        job: Any = await self._watch(run.values["job"], bar)
        if job.status != "succeeded" or job.fine_tuned_model is None:
            reason = job.error.message if job.error else "no reason was given"
            console.print(f"{run.path.stem}: the job {job.status}: {reason} To make another one, delete {run.path}")
            run.save(status=job.status, error=reason)
            return False
        last = (await self.client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)).data[0]
        models = {"selected": job.fine_tuned_model, "last": last.fine_tuned_model_checkpoint}
        vectors = {name: await self._vector(model) for name, model in models.items()}
        after: dict[str, Any] = {"selected": await self._measure(models["selected"], self.rows, bar)}
        is_same = vectors["last"] == vectors["selected"]
        after["last"] = after["selected"] if is_same else await self._measure(models["last"], self.rows, bar)
        run.save(
            vectors=vectors, seconds=job.finished_at - job.started_at, completions=completions(job),
            steps=await self._steps(job.id), after=after,
        )  # fmt: skip
        self.progress.update(bar, note="done")
        return True

    async def _chosen(self, arm: str, seed: int, model: str, bar: TaskID) -> Choice:
        advance = partial(self.progress.advance, bar)
        async with self.measuring:
            if arm == "prompt":
                selection = load_rows(str(self.files.of("select")))
                return await best_prompt(self.client, model, self.task, selection, self.rows, advance)
            training = load_rows(str(self.files.of("train")))
            return await best_vector(self.client, model, self.task, training, self.rows, advance, seed)

    async def _watch(self, job_id: str, bar: TaskID) -> FineTuningJob:
        while True:
            job: Any = await self.client.fine_tuning.jobs.retrieve(job_id)
            self.progress.update(bar, total=job.total_steps, completed=job.step or 0, note=job.status)
            if job.status in ENDS:
                return job  # type: ignore[no-any-return]
            await asyncio.sleep(self.poll_s)

    async def _measure(self, model: str, rows: Sequence[Row], bar: TaskID) -> dict[str, dict[str, Any]]:
        async with self.measuring:
            self.progress.reset(bar, total=2 * len(rows), note=f"measured: {model}")
            measured = await measure(self.client, model, rows, self.task, partial(self.progress.advance, bar))
        console.print(f"{model}: " + ", ".join(f"{how} {one['accuracy']:.3f}" for how, one in measured.items()))
        return measured

    def _bar(self, name: str) -> TaskID:
        return self.progress.add_task(name, total=None, note="")

    async def _vector(self, model: str) -> str:
        """Its bytes, as hexadecimal."""
        content = await self.client.get(f"/adapters/{model}/vector", cast_to=openai.HttpxBinaryResponseContent)
        return content.content.hex()

    async def _steps(self, job_id: str) -> list[dict[str, Any]]:
        """Metrics of every step, which begin with the evaluation before the first one."""
        events = [event async for event in self.client.fine_tuning.jobs.list_events(job_id, limit=100)]
        metrics: list[Any] = [event.data for event in reversed(events) if event.type == "metrics"]
        return [{name: one[name] for name in KEPT if name in one} for one in metrics]


def completions(job: Any) -> int:
    """Sampled to train on, those of evaluations not counted."""
    settings = job.tinylora
    each = settings.get("group_size") or settings.get("population_size") or 0
    return int(job.step * settings["batch_size"] * each)


def machine() -> str:
    """The processor of this machine and how many of it there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()
