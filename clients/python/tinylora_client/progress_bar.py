"""A bar of a job's steps, or of a batch's lines, on standard error or in a notebook, with state and last rewards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from tinylora_client.objects import Job

if TYPE_CHECKING:
    from openai import APIError
    from openai.types.fine_tuning import FineTuningJobEvent
    from typing_extensions import Self


# The time left is the server's estimate: of a job that went on, tqdm would take the steps before for its own speed.
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class ProgressBar:
    """shown: None is on a terminal and in a notebook. It is closed when the block ends, however that ends."""

    def __init__(self, title: str, shown: bool | None) -> None:
        self._rewards: dict[str, float] = {}
        # tqdm's `disable`, in which None means the same.
        hidden = None if shown is None else not shown
        self._bar: Any = tqdm(desc=title, disable=hidden, dynamic_ncols=True, bar_format=FORMAT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, job: Job, events: Sequence[FineTuningJobEvent]) -> None:
        """Move the bar to the job's step; warnings among its new events are printed above it."""
        for event in events:
            if event.level in ("warn", "error") and not self._bar.disable:
                self._bar.write(f"{job.id}: {event.message}", file=self._bar.fp)
            self._rewards.update(rewards_of(event))
        words = [job.status, *(f"{name} {value:.3f}" for name, value in self._rewards.items())]
        if job.estimated_finish is not None:
            words.append(f"{tqdm.format_interval(max(0.0, job.estimated_finish - time.time()))} left")
        self._set_total(job.total_steps)
        self._bar.n = job.step or 0
        self._bar.set_postfix_str(", ".join(words))

    def show_count(self, done: int, total: int, words: str) -> None:
        """Move the bar to so many of so many; 0 of them is not known yet."""
        self._set_total(total or None)
        self._bar.n = done
        self._bar.set_postfix_str(words)

    def _set_total(self, total: int | None) -> None:
        if total is None:
            self._bar.total = None
        elif total != self._bar.total:
            # A notebook's widget has a total of its own, which only this reaches.
            self._bar.reset(total)

    def show_silence(self, error: APIError) -> None:
        """Say that the server does not answer, until it does again."""
        self._bar.set_postfix_str(f"no answer, asking again: {error}")


def rewards_of(event: FineTuningJobEvent) -> dict[str, float]:
    """The mean rewards of a step's event: "train" and, where rows were held out and evaluated, "valid"."""
    data = event.data if isinstance(event.data, dict) else {}
    scores = data.get("scores") or {}
    found = {name: scores.get(f"{name}_reward_mean") for name in ("train", "valid")}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}
