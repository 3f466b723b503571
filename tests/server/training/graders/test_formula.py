"""Formulas are Python's arithmetic, and nothing else of Python."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.training.graders.formula import Formula, FormulaError

NAMES = ("a", "b", "format_score")
PYTHON = {"__builtins__": {}, "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil}
PYTHON |= {"exp": math.exp, "sqrt": math.sqrt, "log": math.log}
SCORES = st.fixed_dictionaries({name: st.floats(-10, 10) for name in NAMES})
BINARY = ["+", "-", "*", "/", "//", "%", "**"]
FUNCTIONS = ["abs", "floor", "ceil", "exp", "sqrt", "log"]
FORMULAS = st.recursive(
    st.sampled_from(NAMES) | st.floats(0, 100).map(repr),
    lambda inner: (
        st.tuples(inner, st.sampled_from(BINARY), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | st.tuples(st.sampled_from("+-"), inner).map(lambda t: f"{t[0]}{t[1]}")
        | st.tuples(st.sampled_from(FUNCTIONS), inner).map(lambda t: f"{t[0]}({t[1]})")
        | st.tuples(st.sampled_from(["min", "max", "log"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
    ),
    max_leaves=8,
)


@given(FORMULAS, SCORES)
def test_a_formula_is_what_python_makes_of_it(text: str, scores: dict[str, float]) -> None:
    formula = Formula.parse(text, NAMES)
    try:
        # floor and ceil make integers in Python, which are exact where floats are rounded; so integers become floats.
        expected = eval(text, {**PYTHON, "floor": _floor, "ceil": _ceil}, scores)
    except (ArithmeticError, ValueError, TypeError):
        expected = math.nan

    if isinstance(expected, complex) or not math.isfinite(expected):
        with pytest.raises(FormulaError, match="no finite real value"):
            formula.evaluate(scores)
    else:
        assert formula.evaluate(scores) == expected


def _floor(x: float) -> float:
    return float(math.floor(x))


def _ceil(x: float) -> float:
    return float(math.ceil(x))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.8 * a + 0.2 * b", 0.8 * 0.5 + 0.2 * 2),
        ("a + b ^ 3", 8.5),  # Python's own ^ binds weaker than +.
        ("-a ^ 2", -0.25),
        ("2 ^ 3 ^ 2", 512),
        ("7 // 2 + 7 % 4", 6),
        (" max(min(a, b), 0, -1) ", 0.5),
        ("log(8, 2)", 3),
        ("1_000 + 0x10", 1016),
    ],
)
def test_formulas_by_hand(text: str, value: float) -> None:
    assert Formula.parse(text, NAMES).evaluate({"a": 0.5, "b": 2.0, "format_score": 0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c",
        "a b",
        "a.real",
        "a[0]",
        "a if b else 1",
        "a == b",
        "a and b",
        "a & b",
        "~a",
        "not a",
        "'text'",
        "True",
        "None",
        "1j",
        "lambda: 1",
        "[a]",
        "(a, b)",
        "{a}",
        "(x := 1)",
        "f'{a}'",
        "print(a)",
        "__import__('os').system('true')",
        "abs(*a)",
        "min(a, b, key=abs)",
        "min(a)",
        "abs()",
        "abs",
        "sqrt(a)(b)",
        "pow(a, b)",
        "1e999",
        "9" * 500,
        "a\nb",
        "a; b",
        "a # " + "x" * 2000,
        "(" * 300 + "a" + ")" * 300,
        "-" * 900 + "a",
        "(" + "-" * 900 + "a) == b",
        "+".join(["a"] * 100),
        "yield",
        "a\0",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(FormulaError):
        Formula.parse(text, NAMES)


@pytest.mark.parametrize(
    "text", ["9**9**9**9", "exp(1000)", "1e308 * 10", "a / 0", "sqrt(-1)", "(-1) ** 0.5", "log(0)"]
)
def test_what_has_no_finite_value_says_so_at_once(text: str) -> None:
    with pytest.raises(FormulaError, match="no finite real value for a = 1"):
        Formula.parse(text, NAMES).evaluate({"a": 1, "b": 2, "format_score": 3})


def test_a_refusal_names_what_was_meant_and_what_there_is() -> None:
    with pytest.raises(FormulaError, match="names 'acuracy'; its graders are a, b, format_score"):
        Formula.parse("acuracy * 2", NAMES)
