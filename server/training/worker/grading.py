"""Groups of completions and their rewards: the data of one step, or one evaluation, of reinforcement learning.

Each prompt is sampled and then graded on its own, so graders work while the engine still samples; the result is in the
order of the prompts. The time of grading is given twice: all of it, and the part at the end that a step waits for,
when nothing is sampled any more.

Design decision: a failure is never worth more than an answer. What a completion is to blame for (it is no JSON, the
grader's code fails on it, it runs into a limit) has the lowest reward of all that was graded with it, and not more
than 0, for where rewards may be negative 0 would be a prize. When the grader itself fails (an endpoint that is away, a
judge without a verdict) there is no reward: NaN, which counts in no mean, for an outage must not look like bad answers.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from server.limits.fair_semaphore import Slots
from server.training.graders.gather import gather_or_cancel
from server.training.graders.grade import OUTAGES, Grade, Grader, GraderError, Sample, grade_row
from server.training.worker.grading_timer import GradingTimer
from server.training.worker.job_data import Example
from server.training.worker.rollout import Completion, Group, RolloutRequest

SAMPLING_ERROR = "sampling_error"
ENVIRONMENT_ERRORS = frozenset({"environment_parse_error", "environment_server_error"})
# What no grader did.
NOT_OF_GRADERS = ENVIRONMENT_ERRORS | {SAMPLING_ERROR}
# Of a completion's end, where answers are.
_SHOWN_CHARS = 80
# Nobody's failure, though the conversation has no reward of its own.
LIMIT = "environment_limit_error"


@dataclass(frozen=True, slots=True)
class GradedGroup:
    """The completions of one prompt, the grade of each, and the row that they are about."""

    group: Group
    grades: tuple[Grade, ...]
    example: Example

    @property
    def rewards(self) -> list[float]:
        """One per completion; NaN when the grader itself failed."""
        return [_reward(grade) for grade in self.grades]

    @property
    def is_outage(self) -> bool:
        """Whether the engine, or what grades it, failed for it in a way that has nothing to do with it."""
        errors = [grade.error for grade in self.grades if grade.error is not None]
        return (self.group.status or 0) >= 500 or any(error.is_outage for error in errors)

    @property
    def differs(self) -> bool | None:
        """Whether it has two different rewards; None with fewer than two rewards, which say nothing."""
        known = [reward for reward in self.rewards if not math.isnan(reward)]
        return len(set(known)) > 1 if len(known) > 1 else None

    @property
    def is_flat(self) -> bool:
        """Whether it has no two different rewards."""
        return not self.differs


@dataclass(frozen=True, slots=True)
class Graded:
    """The graded groups, in the order of their prompts.

    grading_s: seconds in which at least one completion was being graded.
    waited_s: seconds from the arrival of the last completions to the last grade.
    """

    groups: Sequence[GradedGroup]
    grading_s: float = 0.0
    waited_s: float = 0.0

    @property
    def rewards(self) -> list[float]:
        """All rewards that are not NaN."""
        return [reward for group in self.groups for reward in group.rewards if not math.isnan(reward)]

    @property
    def mean(self) -> float | None:
        """The mean reward; None when there is no reward."""
        rewards = self.rewards
        return math.fsum(rewards) / len(rewards) if rewards else None

    @property
    def by_prompt_means(self) -> list[float | None]:
        """The mean reward of each prompt; None of one without a reward."""
        known = ([reward for reward in group.rewards if not math.isnan(reward)] for group in self.groups)
        return [_mean(rewards) if rewards else None for rewards in known]

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over prompts; 0 with fewer than two prompts."""
        means = [mean for mean in self.by_prompt_means if mean is not None]
        if len(means) < 2:
            return 0.0
        centre = _mean(means)
        return math.sqrt(math.fsum((mean - centre) ** 2 for mean in means) / (len(means) - 1) / len(means))

    @property
    def is_graded(self) -> bool:
        """Whether any completion was graded; else all rewards are those of failures, 0."""
        return any(grade.error is None for group in self.groups for grade in group.grades)

    @property
    def is_outage(self) -> bool:
        """Whether all that could be sampled was left without a reward by what grades it, if anything was sampled."""
        kinds = self.errors.keys() - {SAMPLING_ERROR}
        return bool(kinds) and not self.rewards and kinds <= OUTAGES

    @property
    def is_flat(self) -> bool | None:
        """Whether no group has two different rewards, so that all advantages are zero; None where no group has two
        rewards, which says nothing."""
        known = [group.differs for group in self.groups if group.differs is not None]
        return not any(known) if known else None

    def by_prompt(self, prompts: int) -> Graded:
        """The groups that follow each other every `prompts` places as one, for they are of the same prompt."""
        return replace(self, groups=[_joined(self.groups[place::prompts]) for place in range(prompts)])

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers of the rewards and completions, by the names of the report; there must be a completion.

        reward_std: of all rewards, whichever prompt they are of. flat_share: of prompts. completion_tokens_mean,
        truncated_share (ended by the limit of tokens), grader_error_share and no_answer_share (not ended by the limit):
        of completions. turns_mean: of their turns, where they have several. Tokens are those that the model sampled.
        """
        completions = [completion for group in self.groups for completion in group.group.completions]
        errors = sum(error.kind not in NOT_OF_GRADERS for error in self._failures)
        turns = [one.conversation.turns for one in completions if one.conversation is not None]
        return {
            "reward_std": statistics.pstdev(self.rewards) if self.rewards else math.nan,
            "flat_share": sum(group.is_flat for group in self.groups) / len(self.groups),
            "completion_tokens_mean": sum(one.sampled_count for one in completions) / len(completions),
            "truncated_share": sum(not one.finished for one in completions) / len(completions),
            "grader_error_share": errors / len(completions),
            "no_answer_share": len(self._without_answer) / len(completions),
            **({"turns_mean": _mean(turns)} if any(count > 1 for count in turns) else {}),
        }

    @property
    def outage_share(self) -> float:
        """Of the prompts, those without a reward because the engine, or what grades them, did not answer."""
        groups = zip(self.groups, self.by_prompt_means, strict=True)
        return sum(mean is None and group.is_outage for group, mean in groups) / len(self.groups)

    @property
    def errors(self) -> dict[str, int]:
        """Counts of errors, by OpenAI's names for them."""
        kinds: dict[str, int] = dict(Counter(error.kind for error in self._failures))
        if failed := sum(group.group.error is not None for group in self.groups):
            kinds[SAMPLING_ERROR] = failed
        return kinds

    @property
    def first_error(self) -> str | None:
        """The message of the first error, if there is one; in an outage, of what grades them."""
        sampling = [group.group.error for group in self.groups if group.group.error is not None]
        grading = [error.message for error in self._failures]
        return next(iter(grading + sampling if self.is_outage else sampling + grading), None)

    @property
    def no_answer(self) -> tuple[Sequence[str], str] | None:
        """Of the first completion without an answer: (forms of one that were looked for, the end of its text)."""
        return next(((grade.sought, one.text[-_SHOWN_CHARS:]) for grade, one in self._without_answer), None)

    @property
    def _without_answer(self) -> list[tuple[Grade, Completion]]:
        """Completions that the model ended, and in which the grader found no answer."""
        both = [one for group in self.groups for one in zip(group.grades, group.group.completions, strict=True)]
        return [(grade, completion) for grade, completion in both if grade.sought and completion.finished]

    @property
    def _failures(self) -> list[GraderError]:
        errors = [grade.error for group in self.groups for grade in group.grades if grade.error is not None]
        return [error for error in errors if error.kind != LIMIT]

    @property
    def parts(self) -> dict[str, float]:
        """The mean score of every part of a multi grader, by the name of the part."""
        names = {name for group in self.groups for grade in group.grades for name in grade.parts}
        scores = {
            name: [grade.parts[name] for group in self.groups for grade in group.grades if name in grade.parts]
            for name in sorted(names)
        }
        return {name: _mean(values) for name, values in scores.items()}


class Sampler(Protocol):
    """Samples prompts (conversations.py)."""

    async def sample(self, request: RolloutRequest, example: Example) -> Group:
        """The completions of the prompt of `example`."""


@dataclass(frozen=True, slots=True)
class GradedRollouts:
    """Samples prompts and grades their completions; `semaphore` bounds how many are graded at once."""

    rollouts: Sampler
    grader: Grader
    semaphore: Slots
    clock: Callable[[], float] = time.monotonic

    async def collect(self, requests: Sequence[RolloutRequest], examples: Sequence[Example]) -> Graded:
        """The graded completions of every request; `examples` are the rows that they are about.

        When sampling raises, all other requests are cancelled and have ended before the exception goes on.
        """
        timer = GradingTimer(self.clock)
        both = zip(requests, examples, strict=True)
        groups = await gather_or_cancel(self._group(request, example, timer) for request, example in both)
        return Graded(_with_failures_lowest(groups), timer.grading_s, self.clock() - timer.sampled_at)

    async def _group(self, request: RolloutRequest, example: Example, timer: GradingTimer) -> GradedGroup:
        group = await self.rollouts.sample(request, example)
        timer.sampled_at = self.clock()
        grades = await gather_or_cancel(self._grade(request, one, example, timer) for one in group.completions)
        return GradedGroup(group, tuple(grades), example)

    async def _grade(
        self, request: RolloutRequest, completion: Completion, example: Example, timer: GradingTimer
    ) -> Grade:
        said = completion.conversation
        if said is not None and said.failure is not None:
            return Grade(0.0, error=GraderError(said.failure.kind, f"row {example.line}: {said.failure.message}"))
        async with self.semaphore.slot(request.tenant, request.job):
            with timer:
                return await grade_row(self.grader, _sample(completion, example), example.item, example.line)


def _sample(completion: Completion, example: Example) -> Sample:
    said = completion.conversation
    if said is None:
        return Sample.of_text(completion.text, is_cut=not completion.finished)
    messages, environment = [*example.messages, *said.messages], {"done": said.is_done, "reward": said.reward}
    return Sample.of_conversation(messages, environment, is_cut=not completion.finished)


def _with_failures_lowest(groups: Sequence[GradedGroup]) -> list[GradedGroup]:
    grades = [grade for group in groups for grade in group.grades]
    lowest = min((grade.score for grade in grades if grade.error is None), default=0.0)

    def settled(grade: Grade) -> Grade:
        return grade if grade.error is None else replace(grade, score=min(0.0, lowest))

    return [replace(group, grades=tuple(map(settled, group.grades))) for group in groups]


def _joined(groups: Sequence[GradedGroup]) -> GradedGroup:
    completions = tuple(one for group in groups for one in group.group.completions)
    lost = next((group.group for group in groups if group.group.error is not None), None)
    whole = replace(lost or groups[0].group, completions=completions)
    return GradedGroup(whole, tuple(grade for group in groups for grade in group.grades), groups[0].example)


def _reward(grade: Grade) -> float:
    return math.nan if grade.error is not None and grade.error.is_outage else grade.score


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
