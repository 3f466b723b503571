"""The grammars of a request: what its answer must match, and the field that says so.

They are found before the engine reads the request: here a grammar still has the name of its field, and before a stream
begins a refusal can still be an HTTP status. Fields of a wrong type are skipped; the engine refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["json", "regex", "choice", "grammar", "structural_tag"]
KINDS: tuple[Kind, ...] = ("json", "regex", "choice", "grammar", "structural_tag")


@dataclass(frozen=True, slots=True)
class Grammar:
    """`spec` is JSON when its kind is json, choice or structural_tag, else the text of the regex or grammar itself."""

    field: str
    kind: Kind
    spec: str


def grammars_of(payload: Mapping[str, Any], *, all_tools: bool) -> tuple[Grammar, ...]:
    """What holds the answer to `payload`. Of tools the strict ones, or `all_tools`."""
    return (
        *_of_format(payload.get("response_format"), "response_format", "json_schema.schema"),
        *_of_format(_within(payload, "text", "format"), "text.format", "schema"),
        *_of_format(_within(payload, "output_config", "format"), "output_config.format", "schema"),
        *_of_structured_outputs(payload.get("structured_outputs"), "structured_outputs"),
        *_of_structured_outputs(
            _within(payload, "sampling_params", "structured_outputs"), "sampling_params.structured_outputs"
        ),
        *_of_tools(payload, all_tools=all_tools),
    )


def _of_format(form: object, field: str, schema: str) -> Iterator[Grammar]:
    if not isinstance(form, Mapping):
        return
    if form.get("type") == "structural_tag":
        yield Grammar(field, "structural_tag", json.dumps(form))
    elif form.get("type") == "json_schema":
        yield from _schema(_within(form, *schema.split(".")), f"{field}.{schema}")


def _of_structured_outputs(outputs: object, field: str) -> Iterator[Grammar]:
    if not isinstance(outputs, Mapping):
        return
    for kind in KINDS:
        spec = outputs.get(kind)
        if kind == "json":
            yield from _schema(spec, f"{field}.json")
        elif isinstance(spec, str) and kind != "choice":
            yield Grammar(f"{field}.{kind}", kind, spec)
        elif kind == "choice" and isinstance(spec, list) and spec and all(isinstance(choice, str) for choice in spec):
            yield Grammar(f"{field}.choice", kind, json.dumps(spec))


def _of_tools(payload: Mapping[str, Any], *, all_tools: bool) -> Iterator[Grammar]:
    tools = payload.get("tools")
    if not isinstance(tools, list) or payload.get("tool_choice") == "none":
        return
    for index, tool in enumerate(tools):
        function, place = _within(tool, "function"), f"tools[{index}].function"
        if not isinstance(function, Mapping):
            function, place = tool, f"tools[{index}]"
        if isinstance(function, Mapping) and (all_tools or function.get("strict") is True):
            for name in ("parameters", "input_schema"):
                yield from _schema(function.get(name), f"{place}.{name}")


def _schema(schema: object, field: str) -> Iterator[Grammar]:
    if isinstance(schema, str):
        yield Grammar(field, "json", schema)
    elif isinstance(schema, dict | bool):
        yield Grammar(field, "json", json.dumps(schema))


def _within(value: object, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
