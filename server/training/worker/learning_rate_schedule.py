"""How the learning rate falls over a job: https://huggingface.co/docs/transformers/main_classes/optimizer_schedules.

Design decision: no warm-up. Adam's second moment is corrected for its start, an automatic rate is measured before the
first step, and a rate that is too large shows in the first steps, which a warm-up would hide.
"""

from __future__ import annotations

import math

from server.training.jobs.config import LearningRateSchedule


def share_of_rate(schedule: LearningRateSchedule, step: int, total_steps: int) -> float:
    """What a step has of the job's learning rate, above 0 to 1. `step` is from 1 to `total_steps`.

    "constant": 1. "linear" and "cosine" begin with 1 and would reach 0 in the step behind the last.
    """
    done = (step - 1) / total_steps
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1.0
