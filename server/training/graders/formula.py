"""A multi grader's `calculate_output`: arithmetic over the scores of its parts, such as "0.8 * answer + 0.2 * format".

    + - * / // % ** (or ^), unary + and -, parentheses, min max abs floor ceil exp sqrt log, numbers, names of graders

Python parses the text; a walk over an allow-list of node types checks and evaluates it, and nothing is compiled. All
numbers are floats, so no formula can build a large integer.

Design decision: simpleeval (1.0.8) is not used. It checks nothing before it evaluates, while a formula must be refused
when its grader is defined; it accepts comparisons, texts, conditions and integers of thousands of digits; and its
recursion has no limit of its own.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

MAX_CHARS = 1000
MAX_DEPTH = 50

_BINARY: Mapping[type[ast.operator], Callable[[float, float], Any]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
    }
)
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = MappingProxyType(
    {ast.UAdd: operator.pos, ast.USub: operator.neg}
)
# name: (function, fewest arguments, most arguments)
_FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = MappingProxyType(
    {
        "min": (min, 2, 100),
        "max": (max, 2, 100),
        "abs": (abs, 1, 1),
        "floor": (math.floor, 1, 1),
        "ceil": (math.ceil, 1, 1),
        "exp": (math.exp, 1, 1),
        "sqrt": (math.sqrt, 1, 1),
        "log": (math.log, 1, 2),
    }
)
FUNCTION_NAMES = frozenset(_FUNCTIONS)


class FormulaError(ValueError):
    """A formula cannot be read, or has no value. The message is for its owner."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula whose syntax and names have been checked."""

    text: str
    _root: ast.expr

    @classmethod
    def parse(cls, text: str, names: Collection[str]) -> Formula:
        """The formula `text` over graders called `names`. FormulaError says what is not allowed, and what is.

        At most MAX_CHARS characters, nested at most MAX_DEPTH deep.
        """
        if len(text) > MAX_CHARS:
            raise FormulaError(f"the formula has {len(text)} characters, expected at most {MAX_CHARS}")
        # No strings are allowed, so every ^ is the power that OpenAI's formulas write so.
        source = text.strip().replace("^", "**")
        try:
            root = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise FormulaError(f"the formula {text[:80]!r} cannot be read: {_reason(error)}") from None
        _check(root, source, names, MAX_DEPTH)
        return cls(text, root)

    @property
    def names(self) -> frozenset[str]:
        """The graders that it names."""
        return frozenset(node.id for node in ast.walk(self._root) if isinstance(node, ast.Name)) - FUNCTION_NAMES

    def evaluate(self, scores: Mapping[str, float]) -> float:
        """The value for these scores, always finite. FormulaError when there is none, as for a division by zero."""
        try:
            value = _value(self._root, scores)
            if not isinstance(value, complex) and math.isfinite(value):
                return float(value)
            reason = f"the result is {value}"
        except (ArithmeticError, ValueError, TypeError) as error:
            reason = str(error)
        shown = ", ".join(f"{name} = {score:g}" for name, score in scores.items())
        raise FormulaError(f"{self.text[:80]!r} has no finite real value for {shown[:300]}: {reason}")


def _check(node: ast.expr, source: str, names: Collection[str], depth: int) -> None:
    if depth == 0:
        raise FormulaError(f"the formula is nested more than {MAX_DEPTH} deep")
    children: list[ast.expr] = []
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            _number(value)
        case ast.Name(id=name):
            if name not in names:
                raise FormulaError(f"the formula names {name!r}; its graders are {', '.join(sorted(names))}")
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            children = [operand]
        case ast.BinOp(left=left, op=op2, right=right) if type(op2) in _BINARY:
            children = [left, right]
        case ast.Call(func=ast.Name(id=name), args=children, keywords=[]) if name in _FUNCTIONS:
            _, least, most = _FUNCTIONS[name]
            if not least <= len(children) <= most:
                raise FormulaError(f"{name} is given {len(children)} arguments, expected {least} to {most}")
        case _:
            what = ast.get_source_segment(source, node) or ""
            raise FormulaError(
                f"{what[:80]!r} is not allowed in a formula; allowed are numbers, names of graders, + - * / // % **, "
                f"parentheses and {', '.join(_FUNCTIONS)}"
            )
    for child in children:
        _check(child, source, names, depth - 1)


def _value(node: ast.expr, scores: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _number(value)
        case ast.Name(id=name):
            return float(scores[name])
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, scores))
        case ast.BinOp(left=left, op=op2, right=right):
            return _BINARY[type(op2)](_value(left, scores), _value(right, scores))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name][0](*(_value(arg, scores) for arg in args)) * 1.0
    raise AssertionError("checked when the formula was read")


def _number(value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormulaError("the formula has a number beyond the range of a float")
    return number


def _reason(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
