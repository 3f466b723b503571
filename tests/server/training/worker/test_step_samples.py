"""Which samples go with a report, and that anything which rows, models and graders can say fits into it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from server.training.graders.grade import Grade, GraderError
from server.training.jobs.samples import MAX_GROUP_BYTES
from server.training.worker.conversation import Conversation
from server.training.worker.grading import GradedGroup
from server.training.worker.job_data import Example
from server.training.worker.rollout import Completion, Group
from server.training.worker.step_samples import (
    MOST_BYTES,
    MOST_GROUP_BYTES,
    MOST_GROUPS,
    held_out_samples,
    train_samples,
)

OUTAGE = Grade(0.0, error=GraderError("model_grader_server_error", "no answer"))


def graded(line: int, rewards: list[float], text: str = "yes", **example: Any) -> GradedGroup:
    """A row's completions; a reward of NaN is a judge that is away."""
    completions = tuple(Completion([1, 2], [0.0, 0.0], text, True) for _ in rewards)
    grades = tuple(OUTAGE if math.isnan(reward) else Grade(reward) for reward in rewards)
    messages = example.pop("messages", [{"role": "user", "content": "?"}])
    return GradedGroup(Group((1,), completions), grades, Example(line, (1,), (), example.pop("item", {}), messages))


def all_of(groups: list[GradedGroup]) -> list[Any]:
    count = sum(len(group.grades) for group in groups)
    return train_samples(groups, [float(place) for place in range(count)], {place: 1 + place for place in range(count)})


def size(samples: list[Any]) -> int:
    return sum(len(one.model_dump_json().encode()) for one in samples)


def test_prompts_that_tell_completions_apart_come_first_with_their_own_weights() -> None:
    flat, wide, narrow = graded(1, [1.0, 1.0, 1.0]), graded(2, [0.0, 1.0]), graded(3, [0.2, 0.4])
    samples = all_of([flat, wide, narrow])
    assert [one.line for one in samples] == [2, 3, 1]
    assert [[one.advantage for one in group.completions] for group in samples] == [[3, 4], [5, 6], [0, 1, 2]]
    assert [one.importance for one in samples[0].completions] == [4, 5]
    [sample] = train_samples([narrow], [0.0, 1.0], {0: math.nan, 1: 1.0})
    assert [one.importance for one in sample.completions] == [None, 1.0]


def test_there_are_so_many_and_no_more() -> None:
    groups = [graded(line, [0.0, float(line)]) for line in range(1, 100)]
    samples = all_of(groups)
    assert [one.line for one in samples] == list(range(99, 99 - MOST_GROUPS, -1))
    assert [one.line for one in held_out_samples(groups)] == list(range(1, 1 + MOST_GROUPS))


def test_a_grader_that_failed_gives_an_error_and_no_reward() -> None:
    bad = Grade(0.0, error=GraderError("sample_parse_error", "no JSON \ud800" + "x" * 5000))
    group = graded(1, [math.nan, 0.0])
    group = GradedGroup(group.group, (group.grades[0], bad), group.example)
    (sample,) = all_of([group])
    first, second = sample.completions
    assert (first.reward, first.error) == (None, "no answer")
    assert second.reward == 0.0 and second.error.startswith(r"no JSON \ud800x")
    refused = GradedGroup(Group((1,), (), "status 400: too long", 400), (), group.example)
    (sample,) = all_of([refused])
    assert (sample.completions, sample.error) == ([], "status 400: too long")


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = "begin " + "x" * 300_000 + " the answer is 7"
    (sample,) = all_of([graded(4, [0.0, 1.0], text)])
    assert sample.shortened
    cut = sample.completions[0].text
    assert cut.startswith("begin xx") and cut.endswith("the answer is 7")
    assert "characters ...]" in cut
    (short,) = all_of([graded(4, [0.0, 1.0])])
    assert not short.shortened


@pytest.mark.parametrize(
    "text", ["x" * 50_000, "\u65e5\U0001f600" * 20_000, '"\\' * 30_000, "\0" * 30_000, "\ud800" * 9000]
)
@pytest.mark.parametrize("completions", [2, 256, 1024])
def test_everything_fits(text: str, completions: int) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}] * 3
    item = {"text": text, text[:200]: 1}
    rewards = [float(place) for place in range(completions)]
    groups = [graded(line, rewards, text, messages=messages, item=item) for line in range(1, 40)]
    for samples in (all_of(groups), held_out_samples(groups)):
        assert samples and size(samples) <= MOST_BYTES
        assert all(len(one.completions) == min(256, completions) and one.shortened for one in samples)
        assert all(len(one.model_dump_json().encode()) <= MOST_GROUP_BYTES <= MAX_GROUP_BYTES for one in samples)


def test_fields_of_a_row_that_no_json_carries_are_written_as_text_or_left_out() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    odd = {"large": json.loads("1e999"), "deep": deep, "n": 10**400, "none": None, "yes": True}
    (sample,) = all_of([graded(1, [0.0, 1.0], item=odd)])
    assert (sample.item["large"], sample.item["none"], sample.item["yes"]) == ("inf", None, True)
    json.loads(sample.model_dump_json())
    json.dumps(sample.model_dump(mode="json"), allow_nan=False).encode()
    (sample,) = all_of([graded(1, [0.0, 1.0], item={"numbers": list(range(100_000))})])
    assert (sample.item, sample.shortened) == ({}, True)


def test_conversations_are_kept_in_as_far_as_they_fit() -> None:
    turns = [{"role": "assistant", "content": "a turn"}, {"role": "user", "content": "x" * 300}] * 8
    conversation = Conversation((*turns, turns[0]), (True, False, True))
    completion = Completion([1, 2, 3], [0.0, 0.0, 0.0], "a turn", True, conversation)
    for count in (4, 256):
        group = GradedGroup(Group((1,), (completion,) * count), (Grade(1.0),) * count, Example(1, (1,), (), {}))
        [sample] = held_out_samples([group])
        assert [one.tokens for one in sample.completions] == [2] * count
        for one in sample.completions:
            assert one.messages == (list(conversation.messages) if count == 4 else [])
        assert sample.shortened == (count == 256)
