"""What sampling one step ahead (`max_off_policy_steps` 1) gains on GPUs: a simulation from measured speeds.

    python -m benchmarks.learning.overlap

A job samples a step, then has its update computed, and so on; one step ahead, it samples the next step during the
update. The engine's speed depends on how many completions are under way, and is shared by them; the trainer computes
one update at a time. With a card for each, both run at full speed; on one card each is half as fast while the other
is at work, which is what time slices give where neither leaves the card idle.

The speeds are those of one H200 with a 7B shape in bfloat16: tokens per second of the engine with an adapter for every
request, and the seconds of an update of 8 prompts with 8 completions, 200 and 300 tokens. Lengths of completions are
lognormal with that mean, so that a step waits for its longest, as steps do.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.console import Console
from rich.table import Table

# (completions under way, tokens per second)
ENGINE = ((1, 186.0), (8, 1350.0), (32, 5035.0), (128, 15429.0), (256, 20453.0))
UPDATE_S = 2.14
COMPLETIONS, MEAN_TOKENS, SPREAD, MOST_TOKENS = 64, 300, 0.5, 1024
STEPS = 200
JOBS = (1, 2, 4)


@dataclass(slots=True)
class _Job:
    """left: tokens that are missing, of every completion under way. is_sampled: all of a step are there. update:
    seconds that are left of it. done: steps."""

    draw: random.Random
    left: list[float] = field(default_factory=list)
    is_sampled: bool = False
    update: float = 0.0
    done: int = 0

    def sample(self) -> None:
        mu = math.log(MEAN_TOKENS) - SPREAD**2 / 2
        self.left = [min(MOST_TOKENS, self.draw.lognormvariate(mu, SPREAD)) for _ in range(COMPLETIONS)]
        self.is_sampled = False


def engine_speed(completions: int) -> float:
    """Tokens per second in all, between the measured numbers of completions by a straight line."""
    for (few, slow), (many, fast) in pairwise(ENGINE):
        if completions <= many:
            return slow + (fast - slow) * (completions - few) / (many - few)
    return ENGINE[-1][1]


def steps_per_minute(jobs: int, ahead: bool, cards: int) -> float:
    """Of all jobs together, over STEPS steps of each."""
    running = [_Job(random.Random(number)) for number in range(jobs)]
    for job in running:
        job.sample()
    queue: list[_Job] = []
    now = 0.0
    while min(job.done for job in running) < STEPS:
        under_way = sum(len(job.left) for job in running)
        share = 0.5 if cards == 1 and under_way and queue else 1.0
        token_rate = share * engine_speed(under_way) / under_way if under_way else 0.0
        events = [left / token_rate for job in running for left in job.left]
        if queue:
            events.append(queue[0].update / share)
        passed = min(events)
        now += passed
        if queue:
            queue[0].update -= passed * share
        for job in running:
            if job.left:
                job.left = [left for one in job.left if (left := one - passed * token_rate) > 1e-9]
                job.is_sampled = not job.left
        if queue and queue[0].update <= 1e-9:
            finished = queue.pop(0)
            finished.done += 1
            if not ahead:
                finished.sample()
        for job in running:
            if job.is_sampled and job not in queue:
                job.is_sampled = False
                job.update = UPDATE_S
                queue.append(job)
                if ahead:
                    job.sample()
    return 60 * sum(job.done for job in running) / now


def rows() -> Sequence[tuple[int, int, float, float]]:
    """(cards, jobs, steps per minute in turn, one step ahead)."""
    return [
        (cards, jobs, steps_per_minute(jobs, False, cards), steps_per_minute(jobs, True, cards))
        for cards in (1, 2)
        for jobs in JOBS
    ]


def main() -> None:
    table = Table(title="steps per minute of all jobs, simulated")
    for column in ("cards", "jobs", "in turn", "one step ahead", "ratio"):
        table.add_column(column, justify="right")
    for cards, jobs, turn, ahead in rows():
        table.add_row(str(cards), str(jobs), f"{turn:.1f}", f"{ahead:.1f}", f"{ahead / turn:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
