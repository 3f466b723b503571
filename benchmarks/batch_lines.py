"""The lines of the batch that benchmarks/batches.py makes, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator


def lines_of(model: str, count: int) -> Iterator[str]:
    """The lines of the input file."""
    for number in range(count):
        body = {
            "model": model, "max_tokens": 1, "temperature": 0,
            "messages": [{"role": "user", "content": f"Is {number} even?"}],
        }  # fmt: skip
        yield json.dumps({"custom_id": f"{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def counted(output: Iterable[str], count: int) -> tuple[int, list[int]]:
    """(how many of the `count` lines are in the output once, the tokens of all its prompts and answers)."""
    times, tokens = [0] * count, [0, 0]
    for text in output:
        row = json.loads(text)
        times[int(row["custom_id"])] += 1
        usage = row["response"]["body"]["usage"]
        tokens[0] += usage["prompt_tokens"]
        tokens[1] += usage["completion_tokens"]
    return times.count(1), tokens
