"""The states of a training job, and which follow which.

    validating_files -> queued -> running -> succeeded | failed
           any of these <-> paused, and -> cancelled

What a worker is to do follows from the state alone, so pausing and cancelling take effect at once, whether or not a
worker is there to notice.
"""

from __future__ import annotations

from typing import Literal

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
FINISHED = frozenset({"succeeded", "failed", "cancelled"})
ACTIVE = frozenset(STATUSES) - FINISHED


def wanted_of(status: str) -> Literal["run", "pause", "cancel"]:
    """What the worker that has the job is to do with it."""
    if status == "paused":
        return "pause"
    return "cancel" if status in FINISHED else "run"
