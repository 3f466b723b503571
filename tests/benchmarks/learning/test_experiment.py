"""The learning experiment against a gateway and a worker, over a tiny model that learns nothing from it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from adapters.factors.factors import Factors
from benchmarks.learning.experiment import Experiment
from benchmarks.learning.job import SELECTION_ROWS, TEST_ROWS, Options, make_files
from benchmarks.learning.page import page, task_table
from benchmarks.learning.run_file import read_runs
from benchmarks.learning.tasks import KEPT_OUT, REASONING_GYM, TASKS
from clients.evaluation.rows import load_rows
from clients.examples.make_task import LARGEST
from server.training.worker.dataset import read_rows
from tests.server.support.sampling_engine import tiny_tokenizer
from tests.server.support.site import Site, site

OPTIONS = Options(
    steps=2,
    batch_size=2,
    group_size=2,
    learning_rate=4e-3,
    eval_interval=1,
    selection_samples=1,
    supervised_batch_size=2,
)
# With `random` too it would take a process per completion.
ARMS = ["grpo", "sft"]
ROWS = 3


def let_chat(here: Site) -> None:
    """Give the site's engine, which knows completions only, a route for chats."""

    async def chat(request: Request) -> dict[str, Any]:
        body = await request.json()
        prompt = tiny_tokenizer().apply_chat_template(body["messages"], add_generation_prompt=True)["input_ids"]
        choices = here.engine._sample({**body, "prompt": prompt, "max_tokens": 1}, body["n"])
        messages = [{"role": "assistant", "content": choice["text"]} for choice in choices]
        return {
            "id": "chat", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": i, "message": one, "finish_reason": "stop"} for i, one in enumerate(messages)],
        }  # fmt: skip

    here.app.add_api_route("/v1/chat/completions", chat, methods=["POST"])


def test_the_three_parts_share_no_row_and_are_all_rows(tmp_path: Path) -> None:
    files = make_files(tmp_path, TASKS["sums"])
    parts = [
        {row.messages[-1]["content"]: row.item["answer"] for row in load_rows(str(file))}
        for file in (files.of("train"), files.of("select"), files.of("test"))
    ]
    assert [len(part) for part in parts] == [LARGEST**2 - SELECTION_ROWS - TEST_ROWS, SELECTION_ROWS, TEST_ROWS]
    assert len({**parts[0], **parts[1], **parts[2]}) == LARGEST**2
    answered = files.of("train", "answered"), files.of("select", "answered")
    for file, part in zip(answered, parts, strict=False):
        with file.open("rb") as lines:
            rows = list(read_rows(lines, "supervised"))
        assert {row.messages[-2]["content"]: row.messages[-1]["content"] for row in rows} == part


def test_half_of_the_sums_to_measure_on_are_trained_on_the_other_way_round(tmp_path: Path) -> None:
    """As docs/evidence.md says."""
    files = make_files(tmp_path, TASKS["sums"])
    trained, measured = (
        [re.findall(r"\d+", row.messages[-1]["content"]) for row in load_rows(str(files.of(part)))]
        for part in ("train", "test")
    )
    assert sum(pair[::-1] in trained for pair in measured) / TEST_ROWS == pytest.approx(0.5, abs=0.02)


async def test_an_experiment_goes_on_where_it_was_and_does_nothing_twice(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path / "site", path, factors) as here:
        let_chat(here)

        def experiment(options: Options = OPTIONS) -> Experiment:
            experiment = Experiment(
                here.client, tmp_path / "sums", TASKS["sums"], options, tmp_path / "rows", poll_s=0.05
            )
            del experiment.rows[ROWS:]
            return experiment

        async def jobs() -> list[str]:
            return [job.id async for job in here.client.fine_tuning.jobs.list()]

        # Without a worker it waits for its jobs until it is cut off.
        waiting = asyncio.create_task(experiment().run(ARMS, [0]))
        async with asyncio.timeout(60):
            while len(await jobs()) < len(ARMS):
                await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        made = await jobs()

        async with here.worker():
            assert await experiment().run(ARMS, [0])
        assert await jobs() == made
        runs = read_runs(tmp_path / "sums")
        assert {run["job"] for run in runs} == set(made)
        assert all(run["factors"]["digest"] == factors.digest for run in runs)
        for run in runs:
            assert run["steps"][-1]["step"] == run["defaults"]["max_steps"] == OPTIONS.steps
            assert run["completions"] == (0 if run["arm"] == "sft" else 2 * 2 * OPTIONS.steps)
            assert len(bytes.fromhex(run["vectors"]["last"])) == 2 * run["parameters"] == 26
            for measured in (run["before"], *run["after"].values()):
                for name in ("scores", "exact"):
                    assert [len(row) for row in measured["greedy"][name]] == [1] * ROWS
                    assert [len(row) for row in measured["sampled"][name]] == [4] * ROWS
        assert task_table(runs).count("\n") == 2 + len(ARMS)
        assert "| GRPO |" in page({"sums": runs})

        # Nobody trains, and nothing is asked of the engine.
        here.engine.hold = asyncio.Event()
        assert await experiment().run(ARMS, [0])
        with pytest.raises(SystemExit, match="other settings"):
            await experiment(replace(OPTIONS, learning_rate=1.0)).run(ARMS, [0])
        for arm, missing in (
            ("grpo-random-factors", "TINYLORA_FACTORS_KIND=random"),
            ("grpo-rank-4", "TINYLORA_FACTORS_RANK=4"),
            ("grpo-196", "this one has"),
        ):
            with pytest.raises(SystemExit, match=f"{arm}: it needs .* {missing}"):
                await experiment().run([*ARMS, arm], [0])


def test_two_tasks_of_reasoning_gym_are_kept_for_the_end() -> None:
    kept = [TASKS[name] for name in KEPT_OUT]
    assert len(kept) == 2
    assert all(task.dataset for task in kept)
    assert len(TASKS) - len(kept) >= 6


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.dataset])
def test_rows_of_reasoning_gym_come_again_and_never_twice(name: str) -> None:
    if not REASONING_GYM.exists():
        pytest.skip("reasoning-gym is not installed (make reasoning-gym)")
    rows = TASKS[name].rows(256)
    assert rows == TASKS[name].rows(256)
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows) >= 200
    assert {TASKS[name].answer_in(f"It is {row['answer']}.") for row in rows} == {row["answer"] for row in rows}
