"""Rows whose answers are what most samples of the untrained model said, for rewards by majority vote.

The vote is taken once, before training, so that the rows are the same for every seed; in TTRL (arXiv 2504.16084) the
model that is trained votes again in each step.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from openai import AsyncOpenAI

from benchmarks.learning.tasks import Task
from clients.evaluation.evaluate import Sampling, sample
from clients.evaluation.rows import Row, load_rows

VOTES, TEMPERATURE, SEED = 8, 1.0, 2_000_000
AT_ONCE = 32


async def write_voted(
    client: AsyncOpenAI, model: str, task: Task, rows: Path, voted: Path, advance: Callable[[], object]
) -> None:
    """Write the rows of the file `rows` to `voted`, with other answers; those that got no vote are left out."""
    semaphore = asyncio.Semaphore(AT_ONCE)
    sampling = Sampling(VOTES, TEMPERATURE, task.max_tokens, SEED)

    async def line(number: int, row: Row) -> str:
        async with semaphore:
            completion = await sample(client, model, number, row, sampling)
        advance()
        answers = [task.answer_in(choice.message.content or "") for choice in completion.choices]
        votes = Counter(answer for answer in answers if answer is not None)
        answer = votes.most_common(1)[0][0] if votes else None
        return "" if answer is None else json.dumps({"messages": list(row.messages), "answer": answer}) + "\n"

    voted.write_text("".join(await asyncio.gather(*(line(*one) for one in enumerate(load_rows(str(rows)))))))
