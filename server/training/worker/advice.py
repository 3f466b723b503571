"""What the owner of a job can change about it, by the names that the settings of its method have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from server.training.jobs.config import Method


@dataclass(frozen=True, slots=True)
class Advice:
    """more_variety: so that the rewards of a prompt differ. smaller_steps: so that less is lost on the way.
    more_gain: so that a reward that hardly moved moves."""

    more_variety: str
    smaller_steps: str
    more_gain: str


# Standard errors by which a reward has fallen, and not by chance.
FALL_ERRORS = 3.5
ADVICE: Mapping[Method, Advice] = MappingProxyType(
    {
        "reinforcement": Advice(
            "more completions per prompt (group_size), or a higher temperature",
            "a smaller learning_rate, max_abs_v, or kl_coef",
            "more steps (max_steps), or more numbers (groups of the recipe)",
        ),
        "supervised": Advice(
            "other rows",
            "a smaller learning_rate, or max_abs_v",
            "more rows, more steps (max_steps), or more numbers (groups of the recipe)",
        ),
        "evolution": Advice(
            "a larger sigma, or more candidates (population_size)",
            "a smaller sigma, a smaller learning_rate (of openai_es), or max_abs_v",
            "more steps (max_steps), or more candidates (population_size)",
        ),
    }
)


def against_constant_rewards(method: Method, reward: float | None, before: float | None, error: float) -> str:
    """What makes rewards differ where all are `reward`; `before` was that of the held-out rows before training, with
    that standard error: 0 says nothing.

    A search that gets far less than it began with is too far away, and a larger sigma would lead it further.
    """
    if method != "evolution" or reward is None or before is None or error == 0:
        return ADVICE[method].more_variety
    has_fallen = before - reward > max(abs(before) / 2, FALL_ERRORS * error)
    return ADVICE[method].smaller_steps if has_fallen else ADVICE[method].more_variety
