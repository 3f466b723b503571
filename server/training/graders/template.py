"""Texts with variables: `{{ item.answer }}`, `{{ sample.output_text }}`, `{{ sample.output_tools[0].function.name }}`.

A variable is a path that is looked up. Nothing is evaluated (no filters, no expressions, no attributes of objects), so
a template may come from anybody, and the variables that it needs are known before the first row is read.

Strings are inserted as they are, everything else as JSON. Braces may stand in a text, as in JSON or LaTeX; those that
look like a variable and are none ("{{ item.answer }") are refused, because they would be compared as text.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from server.training.graders.grade import GraderError, Sample
from server.training.graders.grader_thread import InThread

MAX_CHARS = 100_000
MAX_RENDERED_CHARS = 1_000_000
# Most texts and variables that are filled in on the event loop.
MAX_ON_LOOP = 200
NAMESPACES = ("item", "sample")
SAMPLE_FIELDS = ("output_text", "output_json", "output_tools", "choices", "messages")

# A variable with one brace where there should be two: `{ item.answer }`.
_ONE_BRACE = re.compile(r"\{\s*(?:item|sample)\s*[.\[][^{}]*\}")
_BRACES = re.compile(r"\{|\}+")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,9})\]")
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Variable:
    """A path into a namespace: ("item", ("answer",)) is `item.answer`."""

    namespace: str
    path: tuple[str | int, ...]

    def __str__(self) -> str:
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return self.namespace + "".join(steps)

    def look_up(self, fields: Mapping[str, Any]) -> object:
        """The value at this path in `fields`, the namespace. KeyError has the path up to the first missing step."""
        value: Any = fields
        for depth, step in enumerate(self.path):
            value = _step(value, step)
            if value is _ABSENT:
                raise KeyError(str(Variable(self.namespace, self.path[: depth + 1])))
        return value


@dataclass(frozen=True)
class Template:
    """A parsed text: the pieces between its variables (one more than there are variables), and the variables."""

    pieces: tuple[str, ...]
    variables: tuple[Variable, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises ValueError, with a sentence, for a variable that cannot exist or whose braces do not match."""
        parts = _split(text)
        template = cls(tuple(parts[::2]), tuple(_variable(part.strip()) for part in parts[1::2]))
        _refuse_left_over_braces(template.pieces)
        return template

    @cached_property
    def item_variables(self) -> frozenset[Variable]:
        """The variables that a row of the data must have."""
        return frozenset(variable for variable in self.variables if variable.namespace == "item")

    @cached_property
    def reads_sample(self) -> bool:
        """Whether a part of the completion is inserted."""
        return any(variable.namespace == "sample" for variable in self.variables)


async def fill_in(
    templates: Sequence[Template], sample: Sample, item: Mapping[str, Any], in_thread: InThread = asyncio.to_thread
) -> list[str]:
    """The texts of a grader's templates, in their order; MAX_RENDERED_CHARS is for all of them together.

    In a thread where there are many, or a value is to be written as JSON, whose length is not known before.
    """
    variables = [variable for template in templates for variable in template.variables]
    if len(templates) + len(variables) <= MAX_ON_LOOP and not any(
        isinstance(_value(variable, sample, item), dict | list) for variable in variables
    ):
        return render(templates, sample, item)
    return await in_thread(render, templates, sample, item)


def render(templates: Sequence[Template], sample: Sample, item: Mapping[str, Any]) -> list[str]:
    """As `fill_in`, here. GraderError for a missing variable, or beyond MAX_RENDERED_CHARS in all of them.

    Each variable is written once, and nothing behind the limit: a short template can ask for a long row often.
    """
    left = MAX_RENDERED_CHARS
    written: dict[Variable, str] = {}
    rendered = []
    for template in templates:
        texts: list[str] = []
        for variable, piece in zip((None, *template.variables), template.pieces, strict=True):
            if variable is not None:
                if variable not in written:
                    written[variable] = _text(_value(variable, sample, item))
                texts.append(written[variable])
                left -= len(written[variable])
            texts.append(piece)
            left -= len(piece)
            if left < 0:
                raise GraderError(
                    "truncated_observation_error",
                    f"the filled-in templates of the grader have more characters than the {MAX_RENDERED_CHARS} that "
                    "they may have together at most; insert less of the row or the sample",
                )
        rendered.append("".join(texts))
    return rendered


def _split(text: str) -> list[str]:
    """Pieces and what stands between double braces, in turn. In linear time, whatever the text is."""
    parts, place = [], 0
    while (start := text.find("{{", place)) >= 0 and (end := text.find("}}", start + 2)) >= 0:
        parts += [text[place:start], text[start + 2 : end]]
        place = end + 2
    return [*parts, text[place:]]


def _check(text: str) -> str:
    Template.parse(text)
    return text


TemplateText = Annotated[str, Field(max_length=MAX_CHARS), AfterValidator(_check)]


def _refuse_left_over_braces(pieces: Sequence[str]) -> None:
    depth = 0
    for piece in pieces:
        if (place := piece.find("{{")) >= 0:
            raise ValueError(f"{piece[place : place + 40]!r} begins a variable that does not end; close it with '}}}}'")
        if (match := _ONE_BRACE.search(piece)) is not None:
            raise ValueError(f"{match[0][:80]!r} has one brace where a variable has two, as in {{{{ item.answer }}}}")
        for match in _BRACES.finditer(piece):
            braces = len(match[0])
            if match[0] == "{":
                depth += 1
                continue
            if braces > 1 and depth < 2:
                before = piece[max(0, match.start() - 40) : match.end()]
                raise ValueError(f"{before!r} ends a variable that does not begin; open it with '{{{{'")
            depth = max(0, depth - braces)


def _variable(text: str) -> Variable:
    namespace, steps, position = "", [], 0
    for namespace in NAMESPACES:
        if text.startswith(namespace):
            position = len(namespace)
            break
    while position and (match := _STEP.match(text, position)):
        name, index = match.groups()
        steps.append(name if index is None else int(index))
        position = match.end()
    if position != len(text) or not steps:
        raise ValueError(
            f"the template variable {text[:80]!r} is not a path such as item.answer, sample.output_text or item.list[0]"
        )
    if namespace == "sample" and steps[0] not in SAMPLE_FIELDS:
        raise ValueError(f"a sample has no {steps[0]!r}, only {', '.join(SAMPLE_FIELDS)}")
    return Variable(namespace, tuple(steps))


def _step(value: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return value.get(step, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value[step] if isinstance(value, list) and step < len(value) else _ABSENT


def _value(variable: Variable, sample: Sample, item: Mapping[str, Any]) -> object:
    if variable.namespace == "sample" and variable.path[0] == "output_json" and "output_json" not in sample.fields:
        raise GraderError("sample_parse_error", f"{variable} is missing: the sample is not JSON")
    fields = item if variable.namespace == "item" else sample.fields
    try:
        return variable.look_up(fields)
    except KeyError as error:
        has = ", ".join(sorted(map(str, fields))[:20]) or "no fields"
        raise GraderError(
            "invalid_variable_error",
            f"the template variable {error.args[0]} is missing; {variable.namespace} has {has:.300}",
        ) from None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
