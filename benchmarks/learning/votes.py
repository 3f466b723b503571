"""Rows whose answers are what most samples of the untrained model said, for rewards by majority vote.

The vote is taken once, before training, so that the rows are the same for every seed; in TTRL (arXiv 2504.16084) the
model that is trained votes again in each step.
"""

from __future__ import annotations

import asyncio
import hashlib
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
    """Write the rows of the file `rows` to `voted`, with other answers; those that got no vote are left out. What is
    there is left alone if the same model voted in the same way on the same rows, which a file beside it says."""
    origin = {
        "model": model, "votes": VOTES, "temperature": TEMPERATURE, "seed": SEED, "max_tokens": task.max_tokens,
        "answer_form": task.answer_form, "rows": hashlib.sha256(rows.read_bytes()).hexdigest(),
    }  # fmt: skip
    beside = voted.with_suffix(".origin")
    if voted.exists() and beside.exists() and json.loads(beside.read_text()) == origin:
        return
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
    beside.write_text(json.dumps(origin))
