"""How good a model is on the test rows: greedy, and by several samples, with the same seeds for all models.

Two ways to take a completion for an answer: `scores` are the task's grader's, which finds the answer in a sentence;
`exact` are 1 where the completion is the answer and nothing else. Much of what training gains can be form alone, and
the difference shows how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from openai import AsyncOpenAI

from benchmarks.learning.tasks import Task
from clients.evaluation.evaluate import Sampling, evaluate
from clients.evaluation.rows import Row

SAMPLES = 4
# Of the measured samples, whatever a job is trained at.
TEMPERATURE = 0.6
# Not the seeds by which the best checkpoint is chosen.
SEED = 1_000_000


async def measure(
    client: AsyncOpenAI, model: str, rows: Sequence[Row], task: Task, advance: Callable[[], object]
) -> dict[str, dict[str, Any]]:
    """Mean score, mean tokens and scores by row. `advance` is called behind each row, twice."""
    measured: dict[str, dict[str, Any]] = {}
    for how, samples, temperature in (("greedy", 1, 0.0), ("sampled", SAMPLES, TEMPERATURE)):
        sampling = Sampling(samples, temperature, task.max_tokens, SEED)
        done = await evaluate(client, model, rows, task.grader, sampling, advance=advance)
        exact = [
            [int(is_exact(one.text, str(row.item["answer"]))) for one in samples]
            for row, samples in zip(rows, done.samples, strict=True)
        ]
        measured[how] = {
            "accuracy": done.pass_at_1.mean,
            "tokens": done.tokens,
            "scores": [[int(score) if score in (0, 1) else score for score in row] for row in done.rewards],
            "exact": exact,
        }
        if done.errors:
            measured[how]["errors"] = dict(done.errors)
    return measured


def measure_constant(answer: str, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """As `measure`, of a model that says `answer` to every row."""
    right = [int(is_exact(answer, str(row.item["answer"]))) for row in rows]
    measured: dict[str, dict[str, Any]] = {}
    for how, samples in (("greedy", 1), ("sampled", SAMPLES)):
        scores = [[one] * samples for one in right]
        measured[how] = {"accuracy": sum(right) / len(right), "scores": scores, "exact": scores}
    return measured


def is_exact(completion: str, answer: str) -> bool:
    """Whether the completion is the answer, up to case, space around it and a full stop behind it."""
    return completion.strip().removesuffix(".").strip().casefold() == answer.strip().casefold()
