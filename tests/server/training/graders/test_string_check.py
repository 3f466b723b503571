"""string_check's four comparisons."""

import pytest

from server.training.graders.grade import Sample, grade_row
from server.training.graders.string_check import StringCheck, StringCheckSpec


@pytest.mark.parametrize(
    ("operation", "output", "passes"),
    [
        ("eq", "Paris", True),
        ("eq", "paris", False),
        ("eq", "Paris ", False),
        ("ne", "Paris", False),
        ("ne", "paris", True),
        ("like", "It is Paris.", True),
        ("like", "It is paris.", False),
        ("like", "Par", False),
        ("ilike", "it is PARIS.", True),
        ("ilike", "London", False),
    ],
)
async def test_operations(operation: str, output: str, passes: bool) -> None:
    spec = StringCheckSpec.model_validate(
        {
            "type": "string_check",
            "input": "{{sample.output_text}}",
            "reference": "{{item.city}}",
            "operation": operation,
        }
    )

    grade = await StringCheck(spec).grade(Sample.of_text(output), {"city": "Paris"})

    assert (grade.score, grade.passes) == (float(passes), passes)


@pytest.mark.parametrize("operation", ["like", "ilike", "eq"])
async def test_an_empty_reference_is_contained_in_nothing(operation: str) -> None:
    """It was in every answer, so that any had the whole reward."""
    fields = {"input": "{{sample.output_text}}", "reference": "{{item.city}}", "operation": operation}
    grader = StringCheck(StringCheckSpec.model_validate({"type": "string_check", **fields}))
    grade = await grade_row(grader, Sample.of_text("London"), {"city": ""}, 3)
    assert grade.score == 0
    assert (grade.error is not None) == (operation != "eq")
