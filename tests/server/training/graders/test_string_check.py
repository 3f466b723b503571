"""string_check's four comparisons."""

import pytest

from server.training.graders.grade import Sample
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
