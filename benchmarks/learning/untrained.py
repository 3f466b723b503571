"""What can be had without training: one answer to all, a better prompt, or the best of many random vectors.

`constant`: the commonest answer of the training rows, whatever is asked. Where answers repeat, a model that has learnt
to say it scores as much.

`prompt`: an instruction before the question, one of PROMPTS or none, which is chosen on the rows to select by.
`best-of-n`: N vectors of 13 numbers, each normal with the deviation SIGMA, are tried on the same training rows; the
best one is measured. These are N * ROWS_EACH completions, half as many as a job has by the server's defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from openai import AsyncOpenAI

from adapters.vector.recipe import Recipe
from benchmarks.learning.measuring import SAMPLES, TEMPERATURE
from benchmarks.learning.tasks import Task
from clients.evaluation.evaluate import Sampling, evaluate
from clients.evaluation.rows import Row

# Whose result is the same with every seed.
SEEDLESS = ("constant", "prompt")
PROMPTS = (
    "",
    "Answer with the final answer only, without any explanation.",
    "You are a careful solver of small problems. Reply with nothing but the result.",
    "Give only the answer. Example of a reply: {example}",
)
# About what moves log-probabilities of SmolLM2-135M by half a nat.
SIGMA = 0.1
VECTORS, ROWS_EACH = 64, 20
UNTRAINED = {
    "constant": "the commonest answer, whatever is asked",
    "prompt": f"the base model with the best of {len(PROMPTS)} prompts",
    "best-of-n": f"the best of {VECTORS} random vectors of 13 numbers",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """model, rows: what is measured. found: for the file."""

    model: str
    rows: Sequence[Row]
    found: dict[str, Any]


def commonest_answer(training: Sequence[Row]) -> str:
    """Of those that are as common, the first."""
    return Counter(str(row.item["answer"]) for row in training).most_common(1)[0][0]


async def best_prompt(
    client: AsyncOpenAI, model: str, task: Task, selection: Sequence[Row], test: Sequence[Row],
    advance: Callable[[], object],
) -> Choice:  # fmt: skip
    """By the mean score of SAMPLES completions of every row of `selection`."""
    example = str(selection[0].item["answer"])
    sampling = Sampling(SAMPLES, TEMPERATURE, task.max_tokens)
    scores = {}
    for prompt in PROMPTS:
        asked = [instructed(row, prompt.format(example=example)) for row in selection]
        scores[prompt] = (await evaluate(client, model, asked, task.grader, sampling, advance=advance)).pass_at_1.mean
    best = max(PROMPTS, key=scores.__getitem__)
    return Choice(model, [instructed(row, best.format(example=example)) for row in test], {"prompt": best})


async def best_vector(
    client: AsyncOpenAI, model: str, task: Task, training: Sequence[Row], test: Sequence[Row],
    advance: Callable[[], object], seed: int,
) -> Choice:  # fmt: skip
    """By the mean score of one completion, at temperature 1, of each of the first rows of `training`."""
    recipe, name = Recipe(), f"best-of-n/{task.dataset or 'sums'}-{seed}"
    generator = torch.Generator().manual_seed(seed)
    best, best_score = "", -1.0
    for number in range(VECTORS):
        vector = torch.randn(recipe.num_parameters, generator=generator) * SIGMA
        stored: Any = await client.post("/adapters", cast_to=object, body={"name": name, "vector": vector.tolist()})
        candidate = f"{name}@{stored['version']}"
        sampling = Sampling(1, 1.0, task.max_tokens, number * ROWS_EACH)
        done = await evaluate(client, candidate, training[:ROWS_EACH], task.grader, sampling, advance=advance)
        if done.pass_at_1.mean > best_score:
            best, best_score = candidate, done.pass_at_1.mean
    return Choice(best, test, {"score": best_score, "sigma": SIGMA})


def instructed(row: Row, instruction: str) -> Row:
    """`row` with a system message, none for an empty one."""
    if not instruction:
        return row
    return replace(row, messages=[{"role": "system", "content": instruction}, *row.messages])
