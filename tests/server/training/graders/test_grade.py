"""A grader's failure is a grade, and a sample is what OpenAI's `sample` namespace says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from server.training.graders.grade import Grade, GraderError, Sample, grade_row


@dataclass
class Raising:
    error: Exception
    name: str = "mine"

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        raise self.error


class NotFinite:
    name = "mine"

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        return Grade(float("nan"))


async def test_an_error_names_the_grader_and_the_row_and_scores_nothing() -> None:
    grade = await grade_row(Raising(GraderError("sample_parse_error", "no JSON")), Sample.of_text("x"), {}, row=12)

    assert grade.score == 0.0
    assert grade.error is not None
    assert grade.error.kind == "sample_parse_error"
    assert grade.error.message == "grader 'mine', row 12: no JSON"


@pytest.mark.parametrize("error", [RecursionError("too deep"), ZeroDivisionError("by zero"), MemoryError()])
async def test_an_exception_nobody_foresaw_costs_one_reward(error: Exception) -> None:
    grade = await grade_row(Raising(error), Sample.of_text("x"), {})

    assert grade.score == 0.0
    assert grade.error is not None
    assert type(error).__name__ in grade.error.message


async def test_a_score_that_is_not_finite_is_an_error() -> None:
    grade = await grade_row(NotFinite(), Sample.of_text("x"), {})

    assert (grade.score, grade.error is None) == (0.0, False)


def test_a_sample_that_is_json_has_it_parsed_and_others_lack_it() -> None:
    assert Sample.of_text('{"a": [1]}').fields["output_json"] == {"a": [1]}
    for text in ("no", "NaN", "[" * 100_000, '{"a": 1} trailing'):
        assert "output_json" not in Sample.of_text(text).fields


def test_a_sample_has_its_choice_and_tool_calls() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    sample = Sample.of_text("", (call,))

    assert sample.fields["output_tools"] == [call]
    assert sample.fields["choices"][0]["message"]["tool_calls"] == [call]
    assert sample.text == ""


def test_a_sample_that_was_cut_off_says_so() -> None:
    reasons = [Sample.of_text("x", is_cut=cut).fields["choices"][0]["finish_reason"] for cut in (False, True)]
    assert reasons == ["stop", "length"]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert Sample.of_text("", (call,)).fields["choices"][0]["finish_reason"] == "tool_calls"


def test_a_number_that_json_cannot_carry_is_no_output_json() -> None:
    assert Sample.of_text('{"a": 1e308}').fields["output_json"] == {"a": 1e308}
    for text in ('{"a": 1e999}', "[-1e999]", '{"a": NaN}', "Infinity"):
        assert "output_json" not in Sample.of_text(text).fields
