"""The event of a step that the owner of a job sees: numbers, in OpenAI's shape, and a line of text.

The seconds of a step's phases add up to the whole step (training.jobs.protocol.StepTiming explains them). Grading
overlaps sampling, so its total time stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from server.training.jobs.protocol import Phase, StepData, StepScores, StepTiming, WorkerEvent
from server.training.worker.held_out_gain import in_words

_IN_WORDS = ("train_reward_mean", "train_loss", "valid_reward_mean", "valid_loss")


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without NaN and infinity, which JSON cannot carry."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def step_event(
    step: int,
    total_steps: int,
    metrics: Mapping[str, float],
    seconds: Mapping[Phase, float],
    event_data: Mapping[str, Any],
) -> WorkerEvent:
    """The event of a step, or of the evaluation before the first. `event_data`: of its result. `seconds`: by part."""
    data = StepData(
        step=step,
        total_steps=total_steps,
        scores=StepScores(
            train_reward_mean=metrics.get("train_reward_mean"),
            valid_reward_mean=metrics.get("valid_reward_mean"),
            graders=event_data.get("graders", []),
        ),
        usage=event_data.get("usage", {}),
        errors=event_data.get("errors", {}),
        timing=StepTiming(
            step=dict(seconds) | {"full_iteration": math.fsum(seconds.values())},
            graders_total=event_data.get("graders_s"),
        ),
    )
    words = [f"{name.replace('_', ' ')} {metrics[name]:.4g}" for name in _IN_WORDS if name in metrics]
    if gain := in_words(metrics):
        words.append(f"{gain} since the start")
    text = f"Step {step}/{total_steps}: {', '.join(words) or 'done'}"
    return WorkerEvent(message=text, type="metrics", data={**data.model_dump(), **metrics})
