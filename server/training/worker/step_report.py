"""The event of a step that the owner of a job sees: numbers, in OpenAI's shape, and a line of text.

The seconds of a step's phases add up to the whole step. Grading overlaps sampling, so its total time is beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from server.training.jobs.protocol import Phase, WorkerEvent
from server.training.worker.held_out_gain import in_words

_IN_WORDS = ("train_reward_mean", "train_loss", "valid_reward_mean", "valid_loss")


class StepScores(BaseModel):
    """Means of rewards; null where nothing was graded in this step."""

    model_config = ConfigDict(extra="allow")

    train_reward_mean: float | None = None
    valid_reward_mean: float | None = None
    graders: list[dict[str, Any]] = []


class StepTiming(BaseModel):
    """step: seconds by part, which add up to full_iteration. graders_total: seconds in which at least one completion of
    the step was being graded, whatever else went on; null where nothing is.

    sampling: until the engine had answered for the last prompt; graders already work meanwhile. grading: from then to
    the last grade, so 0 when they kept up. training: forward and backward passes and Adam, waiting for a pass of other
    jobs included. eval: sampling and grading of the held-out rows. Of a batch that was collected ahead, sampling and
    grading are only what the step still waited.
    """

    step: dict[str, float] = {}
    graders_total: float | None = None


class StepData(BaseModel):
    """The `data` of the metrics event of a step, in OpenAI's shape; the metrics stand beside."""

    model_config = ConfigDict(extra="allow")

    step: int
    total_steps: int
    scores: StepScores = StepScores()
    usage: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    timing: StepTiming = StepTiming()


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
