"""How many tokens of examples a step or an evaluation may read, which bounds a worker's memory.

A supervised row is an example for every answer, each with all messages before it, so a short file may be many tokens.
What is sampled is counted when a job is made (server.training.jobs.options).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, cycle, islice

from server.core.errors import BadRequest
from server.training.jobs.options import PARAM


def check_rows(tokens: Sequence[int], rows: int, setting: str, what: str, most: int) -> None:
    """BadRequest when the `rows` longest of rows with so many `tokens` have more than `most`, whichever are drawn.

    setting: says how many `rows` there are. what: has them, a step or an evaluation.
    """
    sums = list(accumulate(islice(cycle(sorted(tokens, reverse=True)), rows)))
    if not sums or sums[-1] <= most:
        return
    fits = bisect_right(sums, most)
    cure = f"use a {setting} of at most {fits}, or shorter rows" if fits else "use shorter rows"
    raise BadRequest(
        f"{PARAM}.{setting}: {what} of {rows} rows may have {sums[-1]} tokens, where every answer to be learned counts "
        f"with all that is before it; expected at most {most} (the server's setting max_step_tokens): {cure}",
        param=f"{PARAM}.{setting}",
        code="step_too_large",
    )
