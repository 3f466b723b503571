"""Definitions of graders are checked when they are given, and refused where the server lacks the tool."""

import json
import warnings
from typing import Any, get_args

import pytest
from openai._models import construct_type
from openai.types import graders as openai_graders
from openai.types.fine_tuning.alpha import GraderValidateResponse

from server.core.errors import BadRequest
from server.training.graders.build import SPECS, GraderTools, parse_spec
from server.training.graders.math_grader import MathSpec
from server.training.graders.math_pool import MathPool

TEXTS = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "string_check": {"type": "string_check", **TEXTS, "operation": "eq"},
    "text_similarity": {"type": "text_similarity", **TEXTS, "evaluation_metric": "bleu"},
    "math": {"type": "math", "reference": "{{item.answer}}"},
    "python": {"type": "python", "source": "def grade(sample, item): return 1", "image_tag": "2025-05-08"},
    "score_model": {
        "type": "score_model",
        "model": "m",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    },
    "label_model": {
        "type": "label_model",
        "model": "m",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
        "labels": ["good", "bad"],
        "passing_labels": ["good"],
    },
    "endpoint": {"type": "endpoint", "url": "https://a.example/grade"},
}
CONSTANT: dict[str, dict[str, Any]] = {
    "string_check": {"input": "{{item.answer}}"},
    "text_similarity": {"reference": TEXTS["input"]},
    "math": {"input": "34"},
    "score_model": {"input": [{"role": "user", "content": "Is {{item.answer}} right?"}]},
}
OPENAI = {
    "string_check": openai_graders.StringCheckGrader,
    "text_similarity": openai_graders.TextSimilarityGrader,
    "python": openai_graders.PythonGrader,
    "score_model": openai_graders.ScoreModelGrader,
    "label_model": openai_graders.LabelModelGrader,
    "multi": openai_graders.MultiGrader,
}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_the_wire_form_survives_being_read(kind: str) -> None:
    wire = parse_spec(DEFINITIONS[kind]).to_wire()

    assert wire["name"] == kind
    assert parse_spec(wire).to_wire() == wire
    if kind in ("score_model", "label_model"):
        wire["input"][0].pop("type")  # filled in, like the name
    if kind == "math":
        assert parse_spec(wire) == parse_spec(DEFINITIONS[kind])
    else:
        assert wire | DEFINITIONS[kind] == wire


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_the_official_client_writes_every_kind_as_it_came(kind: str) -> None:
    shown = parse_spec(DEFINITIONS[kind]).to_wire()
    answer = construct_type(value={"grader": shown}, type_=GraderValidateResponse)
    assert isinstance(answer, GraderValidateResponse)

    with warnings.catch_warnings():
        # It has no type for these among the graders of jobs: it passes them on, and says that it did not expect them.
        warnings.simplefilter("ignore" if kind in ("label_model", "endpoint") else "error")
        written = json.loads(answer.model_dump_json(exclude_unset=True))["grader"]

    assert written["type"] == shown["type"]
    assert {name: written[name] for name in shown if name in written} == shown


@pytest.mark.parametrize("kind", CONSTANT)
def test_a_score_that_no_sample_changes_is_no_reward(kind: str) -> None:
    with pytest.raises(BadRequest, match="does not depend on the sample") as caught:
        parse_spec({**DEFINITIONS[kind], **CONSTANT[kind]})

    assert (caught.value.param, caught.value.code) == ("grader", "constant_grader")


@pytest.mark.parametrize(("field", "value"), [("operation", "ne"), ("equality", "text"), ("equality", None)])
def test_equality_in_the_form_of_a_string_check_is_mathematical_or_refused(field: str, value: object) -> None:
    definition = {"type": "string_check", **TEXTS, "operation": "eq", "equality": "math"}
    assert isinstance(parse_spec(definition), MathSpec)

    with pytest.raises(BadRequest) as caught:
        parse_spec({**definition, field: value})
    assert caught.value.param == f"grader.{field}"


@pytest.mark.parametrize("kind", OPENAI)
def test_every_field_of_openai_exists_here(kind: str) -> None:
    assert set(SPECS[kind].model_fields) >= set(OPENAI[kind].model_fields)


def test_every_metric_and_operation_of_openai_is_known() -> None:
    for kind, field in (("text_similarity", "evaluation_metric"), ("string_check", "operation")):
        ours = SPECS[kind].model_fields[field].annotation
        theirs = OPENAI[kind].model_fields[field].annotation
        assert set(get_args(ours)) == set(get_args(theirs))


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        (None, "grader", "invalid_value"),
        ([], "grader", "invalid_value"),
        ({}, "grader.type", "missing_required_parameter"),
        ({"type": "lable_model"}, "grader.type", "invalid_value"),
        ({"type": ["math"]}, "grader.type", "invalid_value"),
        ({"type": "math"}, "grader.reference", "missing_required_parameter"),
        ({**DEFINITIONS["math"], "refrence": "x"}, "grader.refrence", "unknown_parameter"),
        ({**DEFINITIONS["math"], "name": ""}, "grader.name", "invalid_value"),
        ({**DEFINITIONS["math"], "input": "{{answer}}"}, "grader.input", "invalid_value"),
        ({**DEFINITIONS["python"], "source": "x" * 256_001}, "grader.source", "invalid_value"),
        (
            {**DEFINITIONS["text_similarity"], "evaluation_metric": "cosine"},
            "grader.evaluation_metric",
            "invalid_value",
        ),
    ],
)
def test_the_field_at_fault_is_named(value: object, param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_spec(value)

    assert (caught.value.param, caught.value.code) == (param, code)


def test_the_name_of_the_field_begins_where_the_definition_is() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_spec({"type": "math"}, "method.reinforcement.grader")

    assert caught.value.param == "method.reinforcement.grader.reference"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("python", "are off"), ("score_model", "no judge"), ("label_model", "no judge"), ("endpoint", "are off")],
)
def test_a_kind_without_its_tool_is_refused_even_inside_a_multi(kind: str, reason: str) -> None:
    inside = {"type": "multi", "graders": {"part": DEFINITIONS[kind]}, "calculate_output": "part"}

    with pytest.raises(BadRequest, match=reason):
        GraderTools(MathPool()).build(parse_spec(DEFINITIONS[kind]))
    with pytest.raises(BadRequest) as caught:
        GraderTools(MathPool()).build(parse_spec(inside))
    assert caught.value.param == "grader.graders.part.type"
    assert caught.value.code == "unsupported_grader"
