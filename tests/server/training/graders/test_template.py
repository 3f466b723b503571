"""Templates fill in paths, and say which one is missing."""

import asyncio
import json
import re
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.training.graders.grade import GraderError, Sample
from server.training.graders.template import MAX_CHARS, MAX_RENDERED_CHARS, Template, _split, fill_in, render

SAMPLE = Sample.of_text(
    '{"answer": {"value": [3, "four"]}}', ({"type": "function", "function": {"name": "add", "arguments": "{}"}},)
)
ITEM = {"answer": "34", "number": 34, "list": [{"deep": "yes"}], "none": None, "flag": True, "ünïcode key": 1, "a-b": 2}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("no variables, { braces } and {", "no variables, { braces } and {"),
        ('{"a": {"b": {{item.number}}}} \\boxed{\\frac{1}{2}}', '{"a": {"b": 34}} \\boxed{\\frac{1}{2}}'),
        ("{{item.answer}}", "34"),
        ("<{{ item.answer }}|{{item.number}}>", "<34|34>"),
        ("{{ item.list[0].deep }}", "yes"),
        ("{{item.list}}", '[{"deep": "yes"}]'),
        ("{{item.none}} {{item.flag}}", "null true"),
        ("{{item.a-b}}", "2"),
        ("{{ sample.output_json.answer.value[1] }}", "four"),
        ("{{sample.output_tools[0].function.name}}", "add"),
        ("{{sample.choices[0].message.role}}", "assistant"),
    ],
)
def test_paths_are_filled_in(text: str, rendered: str) -> None:
    assert render([Template.parse(text)], SAMPLE, ITEM)[0] == rendered


@given(st.text(), JSON)
def test_strings_come_as_they_are_and_values_as_json(text: str, value: object) -> None:
    template = Template.parse("{{sample.output_text}}|{{item.value}}")

    output, _, rest = render([template], Sample.of_text(text), {"value": value})[0][len(text) :].partition("|")

    assert output == ""
    assert rest == value if isinstance(value, str) else json.loads(rest) == value


def test_what_is_filled_in_is_not_a_template_again() -> None:
    assert render([Template.parse("{{item.answer}}")], SAMPLE, {"answer": "{{item.secret}}"})[0] == "{{item.secret}}"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("{{item.question}}", "item.question"),
        ("{{item.list[1].deep}}", "item.list[1]"),
        ("{{item.answer.more}}", "item.answer.more"),
        ("{{sample.output_tools[0].name}}", "sample.output_tools[0].name"),
    ],
)
def test_a_missing_variable_is_named_with_what_there_is(text: str, missing: str) -> None:
    with pytest.raises(GraderError, match="is missing") as caught:
        render([Template.parse(text)], SAMPLE, ITEM)

    assert caught.value.kind == "invalid_variable_error"
    assert f"variable {missing} is missing" in caught.value.message
    assert "has " in caught.value.message


def test_a_sample_that_is_not_json_is_said_to_be_the_reason() -> None:
    with pytest.raises(GraderError, match="the sample is not JSON") as caught:
        render([Template.parse("{{sample.output_json.a}}")], Sample.of_text("prose"), {})

    assert caught.value.kind == "sample_parse_error"


@pytest.mark.parametrize(
    "text",
    [
        "{{ }}",
        "{{item}}",
        "{{answer}}",
        "{{items.answer}}",
        "{{item.answer | upper}}",
        "{{item.a()}}",
        "{{item.list[-1]}}",
        "{{item['a']}}",
        "{{sample.output}}",
        "{{item.}}",
        "{{ item.x + 1 }}",
    ],
)
def test_what_is_not_a_path_is_refused_before_any_row(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a path|a sample has no"):
        Template.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ sample.output_text }",
        "{ sample.output_text }}",
        "{ sample.output_text }",
        "{item.answer}",
        "sample.output_text }}",
        "{{ sample.output_text",
        "{{item.answer}} of {{item.number}",
        "a {{item.answer}} b }}",
    ],
)
def test_half_of_a_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        Template.parse(text)


@given(st.text(st.sampled_from("{}ab. ")))
def test_braces_are_text_or_refused_and_never_lost(text: str) -> None:
    try:
        template = Template.parse(text)
    except ValueError:
        return
    assert render([template], SAMPLE, ITEM)[0] == text


def test_attributes_of_python_objects_are_out_of_reach() -> None:
    with pytest.raises(GraderError, match="__class__"):
        render([Template.parse("{{item.answer.__class__}}")], SAMPLE, ITEM)


def test_a_template_that_multiplies_its_row_is_stopped() -> None:
    template = Template.parse("{{item.answer}}" * 11)

    with pytest.raises(GraderError, match="at most"):
        render([template], SAMPLE, {"answer": "x" * (MAX_RENDERED_CHARS // 10)})


def test_a_long_value_is_written_once_and_no_more_than_is_kept() -> None:
    """A short template of ten thousand variables took minutes and gigabytes before it was refused."""
    many, distinct = "{{item.a}}" * 500, "".join(f"{{{{item.lists[{number}]}}}}" for number in range(500))
    item = {"a": [1] * 100_000, "lists": [[1] * 100_000] * 500}
    tracemalloc.start()
    try:
        for text in (many, distinct):
            with pytest.raises(GraderError, match="at most"):
                render([Template.parse(text)], SAMPLE, item)
        assert tracemalloc.get_traced_memory()[1] < 10 * MAX_RENDERED_CHARS
    finally:
        tracemalloc.stop()


async def test_the_limit_is_for_all_texts_of_a_grader_together() -> None:
    text, item = Template.parse("{{item.answer}}"), {"answer": "x" * (MAX_RENDERED_CHARS // 10)}
    assert await fill_in([text] * 10, SAMPLE, item) == [item["answer"]] * 10
    with pytest.raises(GraderError, match="together"):
        await fill_in([text] * 11, SAMPLE, item)


@pytest.mark.parametrize(
    ("text", "at_once"), [("{{item.answer}}", True), ("{{item.list}}", False), ("{{item.answer}}" * 1000, False)]
)
async def test_others_go_on_while_much_or_json_is_filled_in(text: str, at_once: bool) -> None:
    filling = asyncio.create_task(fill_in([Template.parse(text)], SAMPLE, ITEM))
    await asyncio.sleep(0)
    assert filling.done() is at_once
    assert await filling == render([Template.parse(text)], SAMPLE, ITEM)


def test_the_variables_of_rows_are_known_beforehand() -> None:
    template = Template.parse("{{item.a}} {{sample.output_text}} {{item.b[0].c}} {{item.a}}")

    assert {str(variable) for variable in template.item_variables} == {"item.a", "item.b[0].c"}


@given(st.text("{} \nab"))
def test_it_is_divided_where_a_regular_expression_would(text: str) -> None:
    assert _split(text) == re.split(r"\{\{(.*?)\}\}", text, flags=re.DOTALL)


@pytest.mark.parametrize("piece", ["{{", "{{ item.a }", "{ item", "{{}}", "}}"])
def test_the_longest_text_is_read_at_once(piece: str) -> None:
    """In quadratic time this takes minutes, in which the gateway answers nobody."""
    with suppress(ValueError):
        Template.parse(piece * (MAX_CHARS // len(piece)))
