from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from server.limits.fair_semaphore import FairSemaphore
from server.training.graders.environment import EnvironmentReward, EnvironmentRewardSpec
from server.training.graders.grade import Grade, Grader, GraderError, Sample
from server.training.graders.score_model import ScoreModel, ScoreModelSpec
from server.training.worker.conversation import Conversation
from server.training.worker.grading import Graded, GradedRollouts
from server.training.worker.http_retry import GatewayRefused
from server.training.worker.job_data import Example
from server.training.worker.rollout import Completion, Group, RolloutRequest, Sampling
from tests.server.training.graders.judge_app import judge


class Lengths:
    """Rewards long answers; a judge that is away when it reads "away", and a parser that fails at "{"."""

    name = "lengths"
    at_once = most = 0

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if sample.text == "away":
            raise GraderError("model_grader_server_error", "no answer")
        if sample.text == "{":
            raise GraderError("sample_parse_error", "no JSON")
        return Grade(float(len(sample.text)), parts={"half": len(sample.text) / 2})


class Minutes(Lengths):
    """Takes a minute for every letter."""

    name = "minutes"

    def __init__(self) -> None:
        self.now = 0.0

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        grade = await super().grade(sample, item)
        self.now += 60 * grade.score
        return grade


class Penalties(Lengths):
    """The longer an answer, the further its reward is below 0."""

    name = "penalties"

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        return Grade(-(await super().grade(sample, item)).score)


class Rollouts:
    """Samples by a function of the prompt's number."""

    def __init__(self, sample: Callable[[int], Awaitable[Group]]) -> None:
        self._sample = sample

    async def sample(self, request: RolloutRequest, example: Example) -> Group:
        return await self._sample(request.seed)


async def run(
    sample: Callable[[int], Awaitable[Group]],
    count: int,
    grader: Grader,
    at_once: int,
    clock: Callable[[], float] = time.monotonic,
) -> Graded:
    """`count` prompts, sampled and graded."""
    examples = [Example(line, (1,), (), {}) for line in range(count)]
    requests = [RolloutRequest((1,), 1, Sampling(1), None, place, "acme") for place in range(count)]
    rollouts: Any = Rollouts(sample)
    return await GradedRollouts(rollouts, grader, FairSemaphore(at_once), clock).collect(requests, examples)


async def graded(*groups: list[str], grader: Lengths | None = None) -> Graded:
    async def sample(place: int) -> Group:
        await asyncio.sleep(0.001 * (len(groups) - place))  # the last one answers first
        completions = tuple(Completion([1], [0.0], text, True) for text in groups[place])
        return Group((1,), completions, None if completions else "status 400: too long")

    return await run(sample, len(groups), grader or Lengths(), 2)


async def test_groups_are_in_the_order_of_their_prompts() -> None:
    result = await graded(["a", "bb"], ["ccc"], ["dddd"])
    assert [group.rewards for group in result.groups] == [[1.0, 2.0], [3.0], [4.0]]
    assert result.mean == 2.5
    assert result.parts == {"half": 1.25}


async def test_only_so_many_completions_are_graded_at_once() -> None:
    grader = Lengths()
    await graded(["a"] * 5, ["b"] * 5, grader=grader)
    assert grader.most == 2


async def test_a_bad_completion_scores_0_and_a_judge_that_is_away_gives_no_reward() -> None:
    result = await graded(["a", "{", "away"])
    first, second, third = result.groups[0].rewards
    assert (first, second) == (1.0, 0.0)
    assert math.isnan(third)
    assert result.mean == 0.5
    assert result.errors == {"sample_parse_error": 1, "model_grader_server_error": 1}
    assert result.first_error is not None
    assert "no JSON" in result.first_error


async def test_a_failure_is_worth_no_more_than_the_worst_answer_of_the_step() -> None:
    """Where rewards are below 0, a failure of 0 was the best thing to do."""
    result = await graded(["a", "{"], ["bbbb"], ["{", "away"], grader=Penalties())
    known = [[reward for reward in group.rewards if not math.isnan(reward)] for group in result.groups]
    assert known == [[-1.0, -4.0], [-4.0], [-4.0]]


async def test_a_judge_without_a_verdict_gives_no_reward() -> None:
    for answer, refusal in (("I cannot", None), ('{"steps": [{"descr', None), (None, "I would rather not")):
        client, _ = judge('{"result": -1}', answer, refusal=refusal if answer is None else None)
        spec = {"type": "score_model", "model": "m", "range": [-1, 1], "input": [{"role": "user", "content": "x"}]}
        grader: Any = ScoreModel(ScoreModelSpec.model_validate(spec), client)
        result = await graded(["a", "b"], grader=grader)
        known = [reward for reward in result.groups[0].rewards if not math.isnan(reward)]
        assert known == ([] if refusal else [-1.0])
        assert result.groups[0].is_outage


async def test_a_conversation_that_a_limit_ends_is_worth_no_more_than_one_that_ends_badly() -> None:
    async def sample(place: int) -> Group:
        said = ({"role": "assistant", "content": "x"},)
        ends = [Conversation(said, (True,), is_done=True, reward=-1.0), Conversation(said, (True,))]
        return Group((1,), tuple(Completion([1], [0.0], "x", True, end) for end in ends))

    result = await run(sample, 1, EnvironmentReward(EnvironmentRewardSpec(type="environment")), 2)
    assert result.groups[0].rewards == [-1.0, -1.0]
    assert (result.errors, result.first_error, result.numbers["grader_error_share"]) == ({}, None, 0)


async def test_prompts_that_could_not_be_sampled_count_in_no_mean() -> None:
    result = await graded([], ["aa", "aaaa"])
    assert result.mean == 3.0
    assert result.errors == {"sampling_error": 1}
    assert result.first_error == "status 400: too long"


async def test_nothing_can_be_learned_where_no_group_has_different_rewards() -> None:
    assert (await graded(["a", "b"], ["cc", "dd"])).is_flat
    assert (await graded(["a", "b"], ["a", "away"])).is_flat
    assert (await graded(["a", "away"], [])).is_flat is None
    assert not (await graded(["a", "b"], ["cc", "d"])).is_flat


async def test_without_a_single_reward_there_is_no_mean() -> None:
    assert (await graded(["away"], [])).mean is None


async def test_prompts_that_were_refused_beside_an_outage_do_not_hide_it() -> None:
    outage = await graded([], ["away", "away"])
    assert outage.is_outage and outage.first_error == "grader 'lengths', row 1: no answer"
    assert not (await graded([])).is_outage
    assert not (await graded(["a", "away"], [])).is_outage


async def test_the_error_of_a_mean_is_that_of_the_means_of_prompts() -> None:
    result = await graded(["a", "aaa"], ["aaaa"])
    assert result.standard_error == math.sqrt(((2 - 3) ** 2 + (4 - 3) ** 2) / 1 / 2)


async def test_only_grading_behind_the_last_completion_is_waited_for() -> None:
    grader = Minutes()
    first_is_graded = asyncio.Event()

    async def sample(place: int) -> Group:
        grader.now += 1000
        if place == 1:
            await first_is_graded.wait()
        texts = (["aaa"], ["b", "cc"])[place]
        return Group((1,), tuple(Completion([1], [0.0], text, True) for text in texts))

    async def pass_on() -> None:
        while grader.now < 2180:
            await asyncio.sleep(0)
        first_is_graded.set()

    result, _ = await asyncio.gather(run(sample, 2, grader, 2, clock=lambda: grader.now), pass_on())
    assert result.grading_s == 60 * (3 + 1 + 2)
    assert result.waited_s == 60 * (1 + 2)


async def test_completions_graded_at_the_same_time_take_their_time_once() -> None:
    grader = Minutes()

    async def sample(place: int) -> Group:
        return Group((1,), tuple(Completion([1], [0.0], text, True) for text in ("a", "a", "a")))

    result = await run(sample, 1, grader, 9, clock=lambda: grader.now)
    assert grader.most == 3
    assert result.grading_s == result.waited_s == 60 * 3


async def test_when_one_prompt_fails_nothing_of_the_others_goes_on() -> None:
    running = 0

    class Never(Lengths):
        async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
            nonlocal running
            running += 1
            try:
                await asyncio.Event().wait()
            finally:
                running -= 1
            raise AssertionError

    async def sample(place: int) -> Group:
        if place == 2:
            while running < 2:
                await asyncio.sleep(0)
            raise GatewayRefused(401, "", "the key was revoked")
        return Group((1,), (Completion([1], [0.0], "a", True),))

    with pytest.raises(GatewayRefused, match="revoked"):
        await run(sample, 3, Never(), 9)
    assert running == 0
