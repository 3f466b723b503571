"""Warnings for the owner of a job: what its numbers say is wrong, told when it begins.

What can be wrong is in task_findings.py and training_findings.py.

What was told is told again when it comes back after CLEAR_STEPS steps without it, so that a condition on its border
is not told of in every step. Part of a checkpoint, so a job that goes on elsewhere does not begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.training.graders.grade import printable
from server.training.jobs.protocol import MAX_MESSAGE_CHARS, ClaimedJob, WorkerEvent
from server.training.worker import task_findings as task
from server.training.worker import training_findings as training
from server.training.worker.history import Circumstances, History

CLEAR_STEPS = 3
FINDINGS: Mapping[str, Callable[[History, Circumstances], str | None]] = {
    find.__name__: find
    for find in (
        task.grader_errors,
        task.environment_errors,
        task.sampling_errors,
        task.constant_rewards,
        task.sparse_rewards,
        task.truncated_completions,
        task.missing_answers,
        training.learning_rate_too_large,
        training.sigma_too_large,
        training.reward_collapse,
        training.entropy_collapse,
        training.length_growth,
        training.overfitting,
        training.engine_mismatch,
    )
}

# Graders whose reward is between 0 and 1. Of others that have no `range` the highest reward is not known.
UP_TO_1 = frozenset({"string_check", "text_similarity", "math", "label_model"})

# What the evaluation before training can show.
BEFORE_TRAINING = (task.grader_errors.__name__,)


def circumstances(job: ClaimedJob, event_data: Mapping[str, Any]) -> Circumstances:
    """What is known of a step of `job`, whose result had this `event_data`."""
    config = job.config
    grader = job.method.get(config.method, {}).get("grader", {})
    lowest, highest = grader.get("range", (0.0, 1.0 if grader.get("type") in UP_TO_1 else None))
    return Circumstances(
        job=job.id,
        method=config.method,
        lowest=lowest,
        highest=highest,
        prompts=config.batch_size,
        max_flat_steps=getattr(config, "max_flat_steps", None),
        max_completion_tokens=getattr(config, "max_completion_tokens", None),
        samples_ahead=getattr(config, "max_off_policy_steps", 0) > 0,
        selects_prompts=getattr(config, "prompt_selection", "uniform") != "uniform",
        sigma_is_measured=getattr(config, "sigma", None) == "auto"
        and getattr(config, "learning_rate_multiplier", 1) <= 1,
        evaluates_greedily=getattr(config, "eval_samples", 1) == 1,
        errors=event_data.get("errors", {}),
        first_error=event_data.get("first_error"),
        no_answer=event_data.get("no_answer"),
        grader_error_share=event_data.get("grader_error_share"),
    )


@dataclass(slots=True)
class Diagnosis:
    """told: how many steps ago each finding that was told of was last true."""

    history: History = field(default_factory=History)
    told: dict[str, int] = field(default_factory=dict)

    def observe(self, step: int, metrics: Mapping[str, float], about: Circumstances) -> list[WorkerEvent]:
        """Add a step, 0 being the evaluation before training; returns what is to be told of behind it."""
        self.history.add(step, metrics)
        events = []
        for name in FINDINGS if step > 0 else BEFORE_TRAINING:
            find = FINDINGS[name]
            text = find(self.history, about)
            if text is None:
                self._forget(name)
                continue
            if name not in self.told:
                message = printable(f"Step {step}: {text}")[:MAX_MESSAGE_CHARS]
                events.append(WorkerEvent(level="warn", message=message, data={"warning": name, "step": step}))
            self.told[name] = 0
        return events

    def _forget(self, name: str) -> None:
        """Count a step without a finding that was told of."""
        if name in self.told:
            self.told[name] += 1
            if self.told[name] == CLEAR_STEPS:
                del self.told[name]
