"""score_model asks a judge over the official client, and takes only a number for a verdict."""

from typing import Any

import pytest
from pydantic import ValidationError

from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.score_model import ScoreModel, ScoreModelSpec
from tests.server.training.graders.judge_app import Answer, judge

SPEC: dict[str, Any] = {
    "type": "score_model",
    "model": "judge",
    "input": [
        {"role": "developer", "content": "Compare."},
        {"role": "user", "content": "Say {{item.answer}}: {{sample.output_text}}"},
    ],
}


async def graded(*answers: Answer, refusal: str | None = None, **fields: object) -> tuple[Grade, dict[str, Any]]:
    client, requests = judge(*answers, refusal=refusal)
    grader = ScoreModel(ScoreModelSpec.model_validate({**SPEC, **fields}), client)
    grade = await grader.grade(Sample.of_text("it is 34"), {"answer": "34"})
    return grade, requests[0]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"steps": [], "result": 0.75}', 0.75),
        ('{"steps": [{"description": "9", "conclusion": "8"}], "result": 1}', 1),
        ("0.5", 0.5),
        ('```json\n{"steps": [], "result": 0.25}\n```', 0.25),
        ('<think>the format {"steps": 1} ... so {x}</think>\n{"steps": [], "result": 0.5}', 0.5),
        ("<think>{0</think> 0.75", 0.75),
        ('Its set {x} is {"a": 1}: {"steps": [{"result": 1}], "result": 0.25} \\frac{1}{2}', 0.25),
        ('{"steps": [{"description": "it ends </think> {", "conclusion": "so"}], "result": 0.5}', 0.5),
        ('<think>r</think>{"steps": [{"description": "it ends </think>"}], "result": 0.5}', 0.5),
        ('{"result": 1.0000001}', 1),
        ('{"result": -1e-9}', 0),
    ],
)
async def test_the_verdict_is_the_result_within_the_range(answer: str, score: float) -> None:
    grade, _ = await graded(answer)

    assert grade.score == score
    assert grade.tokens == {"judge": 42}
    assert grade.detail == {"answer": answer, "model": "judge-2026"}


async def test_a_range_of_its_own_is_told_to_the_judge() -> None:
    grade, request = await graded('{"result": 8}', range=[1, 10])

    assert grade.score == 8
    assert "from 1 to 10" in request["messages"][0]["content"]


@pytest.mark.parametrize(("said", "shown"), [("8", "8"), ("1.01", "1.01"), ("-3e5", "-300000")])
async def test_a_score_outside_of_the_range_is_no_verdict(said: str, shown: str) -> None:
    with pytest.raises(GraderError) as refused:
        await graded(f'{{"steps": [], "result": {said}}}')

    assert refused.value.kind == "model_grader_parse_error" and refused.value.is_outage
    assert f"the judge gave the score {shown}, and the range is 0 to 1" in refused.value.message


async def test_the_judge_gets_templates_filled_in_the_rule_and_the_sampling_params() -> None:
    params = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_completions_tokens": 99, "reasoning_effort": "low"}

    _, request = await graded('{"result": 1}', sampling_params=params)

    system, user = request["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("Compare.")
    assert '"result": number' in system["content"]
    assert user == {"role": "user", "content": "Say 34: it is 34"}
    assert request["model"] == "judge"
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["steps", "result"]
    sent = {key: request[key] for key in ("temperature", "top_p", "seed", "max_completion_tokens", "reasoning_effort")}
    assert sent == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "max_completion_tokens": 99,
        "reasoning_effort": "low",
    }


async def test_messages_may_be_made_of_text_blocks_and_need_no_system() -> None:
    blocks = [{"type": "input_text", "text": "a {{item.answer}}"}, "b"]

    _, request = await graded('{"result": 1}', input=[{"role": "user", "content": blocks}])

    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert request["messages"][1]["content"] == "a 34\nb"


@pytest.mark.parametrize(
    "answer",
    [
        "8 out of 10",
        "",
        None,
        '{"result": "0.5"}',
        '{"result": true}',
        '{"result": NaN}',
        '{"score": 1}',
        "[0.5]",
        "{{{",
        '<think>perhaps {"result": 1}',
        '<think>perhaps {"result": 1}</think> I cannot',
        '{"a":' * 5000 + "}",
    ],
)
async def test_an_answer_without_a_number_is_an_error_and_no_guess(answer: str | None) -> None:
    with pytest.raises(GraderError, match="expected JSON with a number") as caught:
        await graded(answer)

    assert caught.value.kind == "model_grader_parse_error"


async def test_a_refusal_is_an_error_of_its_own() -> None:
    with pytest.raises(GraderError, match="I would rather not") as caught:
        await graded(None, refusal="I would rather not")

    assert caught.value.kind == "model_grader_refusal_error"


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_an_error_of_the_judge_is_an_error_with_its_words(status: int) -> None:
    with pytest.raises(GraderError, match="no such model") as caught:
        await graded((status, {"message": "no such model", "type": "x", "param": None, "code": None}))

    assert caught.value.kind == "model_grader_server_error"


@pytest.mark.parametrize(
    "fields",
    [
        {"range": [1, 0]},
        {"range": [0, float("inf")]},
        {"range": [1]},
        {"input": []},
        {"input": [{"role": "user", "content": " "}]},
        {"input": [{"role": "user", "content": "{{question}}"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]}]},
        {"input": [{"role": "tool", "content": "x"}]},
        {"sampling_params": {"temperature": 3}},
        {"sampling_params": {"n": 3}},
    ],
)
def test_a_definition_that_no_judge_could_use_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScoreModelSpec.model_validate({**SPEC, **fields})


async def test_many_short_texts_ask_for_no_more_of_a_row_than_one() -> None:
    """A list of ten thousand variables of a long row made gigabytes of it."""
    many = [{"role": "user", "content": ["{{sample.output_text}}", *["{{item.answer}}"] * 1000]}]
    client, requests = judge('{"result": 1}')
    grader = ScoreModel(ScoreModelSpec.model_validate({**SPEC, "input": many}), client)
    with pytest.raises(GraderError, match="together at most") as caught:
        await grader.grade(Sample.of_text("it is 34"), {"answer": "x" * 10_000})
    assert (caught.value.kind, requests) == ("truncated_observation_error", [])
