"""What is wrong with a JSON text is said in one sentence, with its place; what is right is read as Python reads it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.errors import PayloadTooLarge
from server.core.json_text import MAX_DEPTH, InvalidJson, parse_json, value_at_fault
from server.core.json_values import check_values

DEEP = "is nested too deeply: more than 200 arrays and objects within one another"
WRONG = [
    # (text, what is said of it, the field at fault)
    (b"", "The body is not valid JSON: EOF while parsing a value (line 1, column 0).", None),
    (b'{"a": nul}', "The body is not valid JSON: expected value (line 1, column 10).", None),
    (b'{"a": 1,\n "b" 2}', "The body is not valid JSON: expected `:` (line 2, column 6).", None),
    (b'{"a": 1} {}', "The body is not valid JSON: trailing characters (line 1, column 10).", None),
    (b"NaN", "The body is not valid JSON: expected value (line 1, column 1).", None),
    (b'{"a": 1, "a": 1}', 'The body has "a" twice in one object (line 1, column 14).', None),
    (b'[{"b": {"a": 1,\n "\\u0061": 2}}]', 'The body has "a" twice in one object (line 2, column 11).', None),
    (b"[" * 250, f"The body {DEEP} (line 1, column 202).", None),
    (b'{"a":' * 100_000, f"The body {DEEP} (line 1, column 1006).", None),
    (b'{"a": "\n\xc3\xa9 \xff"}', "The body is not text in UTF-8 (line 2, column 4).", None),
    ('{"a": 1}'.encode("utf-16"), "The body is not text in UTF-8 (line 1, column 1).", None),
    (b'{"a": [1, ' + b"7" * 5000 + b"]}", f"a[1]: is {'7' * 80}..., expected a number of at most 64 bits", "a[1]"),
    (b'{"a": {"b": NaN}}', "a.b: is NaN, expected a finite number", "a.b"),
    (b"[0, -Infinity]", "[1]: is -Infinity, expected a finite number", "[1]"),
    (
        b'{"a": "x\\ud800"}',
        "a: holds \\ud800, half of a surrogate pair, which is no text. Send whole characters",
        "a",
    ),
]


@pytest.mark.parametrize(("text", "said", "field"), WRONG)
def test_what_is_wrong_is_said_with_its_place(text: bytes, said: str, field: str | None) -> None:
    with pytest.raises(InvalidJson) as caught:
        parse_json(text)
    assert (caught.value.message, caught.value.param) == (said, field)


def test_of_a_line_of_a_file_the_column_is_said() -> None:
    with pytest.raises(InvalidJson) as caught:
        parse_json(b'{"a": }')
    assert caught.value.said_of("This line", is_line=True) == "This line is not valid JSON: expected value (column 7)."


def test_as_many_levels_as_are_said_are_read() -> None:
    parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_too_many_values_and_too_many_levels_are_told_apart() -> None:
    assert check_values(b"[0, 0]", 3, "most") == 3
    with pytest.raises(PayloadTooLarge, match="has 101 commas and opening brackets"):
        check_values(b"[" + b"0," * 99 + b"0]", 3, "most")
    with pytest.raises(PayloadTooLarge, match="has 101 commas"):
        check_values(b"{,[,," * 20, 3, "most")
    with pytest.raises(InvalidJson, match=DEEP):
        check_values(b"[" * 100_000, 3, "most")


def test_a_long_key_is_not_copied_for_every_value_below_it() -> None:
    value = {"k" * 100_000: [0] * 1000 + [2**64]}
    tracemalloc.start()
    try:
        fault = value_at_fault(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fault is not None and fault.field == f"{'k' * 80}...[1000]"
    assert peak < 1_000_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_all_that_python_writes_is_read_as_it_was(value: Any, escaped: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    assert parse_json(text.encode()) == value
    assert parse_json(text.encode("utf-8-sig")) == value


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b":", b"1", b"\\u", b"d800", b"NaN", b"\xff", b"\n"]))
)
def test_nothing_else_comes_of_any_text(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    try:
        value = parse_json(text)
    except InvalidJson as error:
        assert error.message.endswith((").", "number", "characters"))
    else:
        assert value == json.loads(text)
