"""Makes a page of docs/openapi.json: python deploy/api_reference.py DOCUMENT PAGE, as `make docs` does.

Every operation with its parameters, body, answer and scope, then the objects. It is plain Markdown, so it is read
without JavaScript, searched with the other pages, and asks nothing of another site.

Design decision: not Swagger UI, ReDoc or a plug-in of MkDocs: the first two need a script and a web server, and the
plug-ins repeat the error's schema at each of some 300 answers, which makes 2.6 MB.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """\
# API reference

The server's own routes, made from its OpenAPI document, which a server also answers at `/openapi.json`. The routes of
vLLM (`/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/messages`, `/tokenize` and others) take what they
take there, and the field [`adapter`](serving.md#the-adapter-of-a-request).

Keys go into `Authorization: Bearer`, `x-api-key` or `api-key`; an operation names the scope that its key needs. Every
error is `{"error": {"message", "type", "param", "code"}}`. Any operation may answer 400 (the request says something
wrong), 401 (no key, or none that is valid), 403 (the key may not), 404 (there is no such thing), 429 (too many;
`Retry-After` says when) and 503 (try again later); its own list has the rest.
"""
# Of every operation, and told above.
COMMON_STATUSES = {"400", "401", "403", "404", "422", "429", "500", "503"}
METHODS = ("get", "post", "put", "patch", "delete")


def main() -> None:
    document, page = (Path(argument) for argument in sys.argv[1:3])
    page.write_text(reference(json.loads(document.read_text())))


def reference(document: Mapping[str, Any]) -> str:
    """The whole page, as Markdown."""
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]
    tags = list(dict.fromkeys(tag for _, _, operation in operations for tag in operation["tags"]))
    parts = [HEAD]
    for tag in tags:
        parts.append(f"## {tag.capitalize()}")
        for path, method, operation in operations:
            if tag in operation["tags"]:
                parts += _operation(path, method, operation)
    parts.append("## Objects")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _object(name, schema)
    return "\n\n".join(parts) + "\n"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method.upper()} {path}"
    yield operation.get("description") or operation["summary"]
    scopes = sorted({scope for way in operation.get("security", []) for found in way.values() for scope in found})
    if scopes:
        yield f"Scope: `{'`, `'.join(scopes)}`"
    parameters = [
        (p["name"], p["in"], _type(p["schema"]), p.get("required", False), _said(p))
        for p in operation.get("parameters", [])
    ]
    if parameters:
        rows = [
            f"| `{name}` | {where} | {kind} | {'required' if needed else ''} | {text} |"
            for name, where, kind, needed, text in parameters
        ]
        yield _table("Parameter | in | type | | ", rows)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        yield f"Body, `{kind}`: {_type(schema)}"
        if "properties" in schema:
            yield _fields(schema)
    yield "\n".join(
        f"- {status}: {_answer(answer)}"
        for status, answer in operation["responses"].items()
        if status not in COMMON_STATUSES
    )


def _answer(answer: Mapping[str, Any]) -> str:
    kinds = [
        _type(content["schema"]) if content.get("schema") else f"`{kind}`"
        for kind, content in answer.get("content", {}).items()
    ]
    text = "" if answer["description"] in ("Successful Response", "Created") else answer["description"]
    return " ".join(part for part in (" or ".join(kinds), text) if part) or "no content"


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if schema.get("description"):
        yield schema["description"]
    yield _fields(schema) if schema.get("properties") else _type({k: v for k, v in schema.items() if k != "title"})


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        default = field.get("default")
        state = "required" if name in required else "" if default is None else f"default `{json.dumps(default)}`"
        rows.append(f"| `{name}` | {_type(field)} | {state} | {_said(field)} |")
    return _table("Field | type | | ", rows)


def _table(head: str, rows: Sequence[str]) -> str:
    return "\n".join([f"| {head}|", "|" + "---|" * (head.count("|") + 1), *rows])


def _said(of: Mapping[str, Any]) -> str:
    text = of.get("description") or of.get("schema", {}).get("description") or ""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words; an object of its own is a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for way in ("anyOf", "oneOf", "allOf"):
        if way in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[way]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items') or {})}"
    extra = schema.get("additionalProperties")
    if kind == "object" and isinstance(extra, Mapping) and extra:
        return f"object of {_type(extra)}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


if __name__ == "__main__":
    main()
