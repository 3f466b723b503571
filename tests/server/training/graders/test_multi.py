"""multi grades by all of its parts and a formula over their scores."""

from typing import Any

import pytest

from server.core.errors import BadRequest
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.math_pool import MathPool
from server.training.graders.multi import Multi, MultiSpec
from tests.server.training.graders.judge_app import judge


def check(operation: str, reference: str = "{{item.answer}}") -> dict[str, Any]:
    return {
        "type": "string_check",
        "input": "{{sample.output_text}}",
        "reference": reference,
        "operation": operation,
    }


def multi(formula: str, **graders: object) -> dict[str, Any]:
    return {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula}


async def graded(definition: dict[str, Any], output: str) -> Grade:
    client, _ = judge('{"result": 0.5}')
    grader = GraderTools(MathPool(), judge=client).build(parse_spec(definition))
    return await grader.grade(Sample.of_text(output), {"answer": "34"})


async def test_no_answer_was_found_where_no_part_found_one() -> None:
    def of(*forms: str) -> dict[str, Any]:
        return {"type": "math", "name": "math", "reference": "{{ item.answer }}", "extract": list(forms)}

    definition = multi(
        "0.8 * answer + 0.2 * form", answer=of("boxed", "last_number"), form=of("boxed"), is_it=check("eq")
    )
    assert (await graded(definition, "it is 34")).sought == ()
    assert (await graded(definition, "no idea")).sought == ("boxed", "last_number")


async def test_the_score_is_the_formula_of_the_parts() -> None:
    definition = multi("0.8 * exact + 0.2 * has_it", exact=check("eq"), has_it=check("like"))

    assert (await graded(definition, "34")).score == pytest.approx(1)
    half = await graded(definition, "it is 34")
    assert half.score == pytest.approx(0.2)
    assert half.parts == {"exact": 0, "has_it": 1}


async def test_tokens_of_judges_are_added_up() -> None:
    score_model = {
        "type": "score_model",
        "model": "judge",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }

    grade = await graded(multi("a * b", a=score_model, b=score_model), "34")

    assert grade.score == 0.25
    assert grade.tokens == {"judge": 84}


async def test_a_part_that_fails_fails_the_whole_and_is_named() -> None:
    definition = multi("1 - broken", broken=check("eq", "{{item.missing}}"), fine=check("eq"))

    with pytest.raises(GraderError, match=r"its part 'broken': .*item\.missing is missing") as caught:
        await graded(definition, "34")

    assert caught.value.kind == "invalid_variable_error"


async def test_a_formula_without_a_value_is_counted_as_openai_counts_it() -> None:
    with pytest.raises(GraderError, match="exact = 0") as caught:
        await graded(multi("1 / exact", exact=check("eq")), "35")

    assert caught.value.kind == "formula_parse_error"


async def test_one_grader_in_place_of_a_map_goes_by_its_own_name() -> None:
    definition = {**multi("2 * exact"), "graders": {**check("eq"), "name": "exact"}}

    assert (await graded(definition, "34")).score == 2


@pytest.mark.parametrize(
    ("definition", "param"),
    [
        (multi("a + c", a=check("eq")), "grader.calculate_output"),
        (multi("a"), "grader.graders"),
        (multi("1", **{"two words": check("eq")}), "grader.graders"),
        (multi("1", max=check("eq")), "grader.graders"),
        (multi("1", **{"if": check("eq")}), "grader.graders"),
        (multi("übereinstimmung", übereinstimmung=check("eq")), "grader.graders"),
        (multi("a" * 49, **{"a" * 49: check("eq")}), "grader.graders"),
        (multi("loss", loss=check("eq")), "grader.graders"),
        (multi("loss_error", loss_error=check("eq")), "grader.graders"),
        (multi("reward_error", reward_error=check("eq")), "grader.graders"),
        (multi("a", a=check("eq"), b={**check("eq", "right"), "input": "wrong"}), "grader.graders"),
        (multi("a", a=multi("b", b=check("eq"))), "grader.graders"),
        (multi("a", a=multi("b", b=7)), "grader.graders"),
        ({**multi("a"), "graders": multi("b", b=7)}, "grader.graders"),
        (multi("a", a=check("gt")), "grader.graders.a.operation"),
        (multi("a", a=check("eq"), b={"type": "lable_model"}), "grader.graders.b.type"),
        (multi("a", a=7), "grader.graders.a"),
        (multi("a0", **{f"a{n}": check("eq") for n in range(17)}), "grader.graders"),
        (multi("a0", **{f"a{n}": 7 for n in range(17)}), "grader.graders"),
        ({**multi("a"), "graders": [check("eq")]}, "grader.graders"),
    ],
)
def test_a_definition_at_fault_is_refused_with_the_field(definition: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_spec(definition)

    assert caught.value.param == param


def test_a_formula_that_names_no_part_that_reads_the_sample_is_refused() -> None:
    is_hard = {**check("eq", "hard"), "input": "{{item.level}}"}

    for formula in ("1", "is_hard", "2 * is_hard + 1"):
        with pytest.raises(BadRequest, match="names no grader that does") as caught:
            parse_spec(multi(formula, is_hard=is_hard, exact=check("eq")))
        assert (caught.value.param, caught.value.code) == ("grader", "constant_grader")
    parse_spec(multi("exact * (1 + is_hard)", is_hard=is_hard, exact=check("eq")))


async def test_a_score_beyond_all_sums_is_an_error_of_its_part() -> None:
    with pytest.raises(GraderError, match=r"its part 'judge': the score is 1e\+300"):
        judged = Grade(1e300)

        class Judge:
            name = "judge"

            async def grade(self, sample: Sample, item: Any) -> Grade:
                return judged

        spec = parse_spec(multi("judge / 1e300", judge=check("eq")))
        assert isinstance(spec, MultiSpec)
        await Multi(spec, {"judge": Judge()}).grade(Sample.of_text("34"), {})


def test_the_variables_of_all_parts_are_needed() -> None:
    definition = multi("a + b", a=check("eq"), b=check("eq", "{{item.unit}} {{sample.output_json.x}}"))

    assert {str(variable) for variable in parse_spec(definition).item_variables()} == {"item.answer", "item.unit"}
