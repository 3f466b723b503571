"""Which samples of a step go with its report, and how long texts are made to fit.

Of training, prompts with different rewards come first, for only they moved the vector: those with the largest spread.
Of an evaluation it is the same rows every time, the first ones, so that what changed between two of them can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

from server.training.graders.grade import Grade, printable
from server.training.jobs.sampled_group import MAX_COMPLETIONS, MAX_ERROR_CHARS, SampledGroup, Split
from server.training.worker.grading import GradedGroup
from server.training.worker.rollout import Completion

# Of each split, in one step.
MOST_GROUPS = 16
MOST_BYTES = 2**18
# Of one group, below samples.MAX_GROUP_BYTES: enough for the most completions that there are.
MOST_GROUP_BYTES = 7 * 2**14
# Longest texts of a group: the first of these with which it fits.
_MOST_CHARS = (8192, 2048, 512, 128, 32)
_MOST_DEPTH = 16


def train_samples(
    groups: Sequence[GradedGroup], advantages: Sequence[float | None], importances: Mapping[int, float]
) -> list[SampledGroup]:
    """Samples of a training step. advantages: of all completions, group by group. importances: of some, by place."""
    starts = [0, *accumulate(len(group.grades) for group in groups)]
    # Sorting is stable: of equal spreads the order of the step stays.
    order = sorted(range(len(groups)), key=lambda number: -_spread(groups[number]))

    def sampled(number: int) -> dict[str, Any]:
        places = range(starts[number], starts[number + 1])
        return _sampled(groups[number], "train", [(advantages[place], importances.get(place)) for place in places])

    return _chosen(sampled(number) for number in order)


def held_out_samples(groups: Sequence[GradedGroup]) -> list[SampledGroup]:
    """The samples of an evaluation."""
    return _chosen(_sampled(group, "valid", [(None, None)] * len(group.grades)) for group in groups)


def fitted(group: Mapping[str, Any], most_bytes: int = MOST_GROUP_BYTES) -> tuple[SampledGroup, int] | None:
    """A SampledGroup of these fields, cut so that it has at most so many bytes as JSON, and how many it has.

    Without `item` where that alone is too large, then without what was said in turns; None when nothing helps.
    """
    completions = group["completions"][:MAX_COMPLETIONS]
    for item, kept in (
        (group["item"], completions),
        ({}, completions),
        ({}, [{**one, "messages": []} for one in completions]),
    ):
        whole = {**group, "item": item, "completions": kept}
        for chars in _MOST_CHARS:
            cut = _cut(whole, chars)
            made = SampledGroup.model_validate({**cut, "shortened": cut != group})
            if (size := len(made.model_dump_json().encode())) <= most_bytes:
                return made, size
    return None


def _chosen(groups: Iterable[Mapping[str, Any]]) -> list[SampledGroup]:
    """The first groups, until there are enough or one no longer fits into MOST_BYTES with those before it."""
    chosen: list[SampledGroup] = []
    left = MOST_BYTES
    for group in islice(groups, MOST_GROUPS):
        made = fitted(group, min(left, MOST_GROUP_BYTES))
        if made is not None:
            chosen.append(made[0])
            left -= made[1]
        elif chosen:
            break
    return chosen


def _spread(group: GradedGroup) -> float:
    rewards = [reward for reward in group.rewards if not math.isnan(reward)]
    return max(rewards) - min(rewards) if rewards else 0.0


def _sampled(group: GradedGroup, split: Split, weights: Sequence[tuple[float | None, float | None]]) -> dict[str, Any]:
    """The fields of a SampledGroup. weights: (advantage, importance) of every completion."""
    both = zip(group.group.completions, group.grades, group.rewards, weights, strict=True)
    return {
        "split": split,
        "line": group.example.line or None,
        "messages": list(group.example.messages),
        "item": group.example.item,
        "completions": [_completion(*one) for one in both],
        "error": _error(group.group.error),
    }


def _completion(
    completion: Completion, grade: Grade, reward: float, weights: tuple[float | None, float | None]
) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": completion.sampled_count,
        "finished": completion.finished,
        "reward": _finite(reward),
        "rewards": grade.parts,
        "error": _error(None if grade.error is None else grade.error.message),
        "advantage": _finite(weights[0]),
        "importance": _finite(weights[1]),
        "messages": [] if completion.conversation is None else list(completion.conversation.messages),
    }


def _error(message: str | None) -> str | None:
    return None if message is None else printable(message)[:MAX_ERROR_CHARS]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cut(value: Any, most: int, depth: int = 0) -> Any:
    """`value` as JSON that anything can carry: no text longer than `most`, nothing deeper than _MOST_DEPTH."""
    if depth > _MOST_DEPTH:
        return "..."
    if isinstance(value, str):
        return _cut_text(value, most)
    if isinstance(value, Mapping):
        return {_cut_text(str(key), most): _cut(one, most, depth + 1) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_cut(one, most, depth + 1) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _cut_text(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long, for answers are at the end."""
    if len(text) <= most:
        return printable(text)
    half = most // 2
    return printable(f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}")
