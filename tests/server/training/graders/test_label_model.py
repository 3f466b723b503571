"""label_model asks a judge over the official client, and takes only one of its labels for a verdict."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.graders import LabelModelGrader
from pydantic import ValidationError

from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.label_model import LabelModel, LabelModelSpec
from tests.server.training.graders.judge_app import Answer, judge

SPEC: dict[str, Any] = {
    "type": "label_model",
    "name": "tone",
    "model": "judge",
    "input": [{"role": "user", "content": "How is: {{sample.output_text}}"}],
    "labels": ["Kind", "neutral", "rude"],
    "passing_labels": ["Kind", "neutral"],
}


async def graded(*answers: Answer, refusal: str | None = None, **fields: Any) -> tuple[Grade, dict[str, Any]]:
    client, requests = judge(*answers, refusal=refusal)
    grader = LabelModel(LabelModelSpec.model_validate({**SPEC, **fields}), client)
    return await grader.grade(Sample.of_text("Thank you!"), {}), requests[0]


@pytest.mark.parametrize(
    ("answer", "label", "score"),
    [
        ('{"steps": [], "result": "Kind"}', "Kind", 1),
        ('{"steps": [], "result": "neutral"}', "neutral", 1),
        ('{"steps": [], "result": "rude"}', "rude", 0),
        ('```json\n{"result": " KIND "}\n```', "Kind", 1),
        ('"rude"', "rude", 0),
        ("Rude", "rude", 0),
        ("<think>{not} Kind</think>\n\nrude", "rude", 0),
    ],
)
async def test_the_score_is_whether_the_label_passes(answer: str, label: str, score: float) -> None:
    grade, _ = await graded(answer)
    assert (grade.score, grade.passes, grade.detail["label"]) == (score, bool(score), label)
    assert grade.tokens == {"judge": 42}


async def test_the_judge_gets_the_labels_to_choose_from() -> None:
    _, request = await graded('{"result": "rude"}')
    system, user = request["messages"]
    assert "'Kind', 'neutral', 'rude'" in system["content"]
    assert user == {"role": "user", "content": "How is: Thank you!"}
    schema = request["response_format"]["json_schema"]
    assert schema["name"] == "label"
    assert schema["schema"]["properties"]["result"] == {"type": "string", "enum": ["Kind", "neutral", "rude"]}


async def test_labels_that_differ_in_case_alone_are_told_apart() -> None:
    for said, score in (("a", 1), ("A", 0)):
        grade, _ = await graded(f'{{"result": "{said}"}}', labels=["a", "A"], passing_labels=["a"])
        assert grade.score == score


@pytest.mark.parametrize(
    "answer", ['{"steps": [], "result": "polite"}', '{"result": 1}', '{"steps": []}', "It is kind, not rude.", "", "[]"]
)
async def test_any_other_answer_is_an_error_that_lists_the_labels(answer: str) -> None:
    with pytest.raises(GraderError, match="expected JSON with a \"result\" that is one of 'Kind'") as caught:
        await graded(answer)
    assert caught.value.kind == "model_grader_parse_error"


async def test_refusals_and_failures_are_of_their_kinds() -> None:
    with pytest.raises(GraderError) as caught:
        await graded(None, refusal="no")
    assert caught.value.kind == "model_grader_refusal_error"
    with pytest.raises(GraderError) as caught:
        await graded((500, {"message": "down", "type": "server_error", "param": None, "code": None}))
    assert caught.value.kind == "model_grader_server_error"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["a"], "passing_labels": ["a"]}, "at least 2"),
        ({"labels": ["a", "a"], "passing_labels": ["a"]}, "stands in it twice"),
        ({"passing_labels": ["nice"]}, "'nice' is not one of labels"),
        ({"passing_labels": SPEC["labels"]}, "all labels pass"),
        ({"passing_labels": []}, "at least 1"),
        ({"input": [{"role": "user", "content": " "}]}, "no text for the judge"),
    ],
)
def test_definitions_that_cannot_be_meant_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LabelModelSpec.model_validate({**SPEC, **fields})


def test_a_definition_of_the_official_client_is_taken() -> None:
    theirs = LabelModelGrader.model_validate(SPEC).model_dump(exclude_none=True)
    assert LabelModelSpec.model_validate(theirs) == LabelModelSpec.model_validate(SPEC)
