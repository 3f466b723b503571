"""What the OpenAPI document says of every operation that its route does not: errors, keys, and bodies' components.

Design decision: no route lists its errors, which it might forget to. One function completes the finished document, from
what stands in it: an operation with the header If-Match can answer 412, one with a body 413, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI

from server.api.middleware import anthropic_errors
from server.api.middleware.anthropic_errors import MESSAGES
from server.api.middleware.proxy_headers import EVENT_STREAM
from server.auth.middleware import KEY_HEADERS
from server.auth.scopes import scope_of
from server.core.paths import MODEL_ROUTES, OPEN_PATHS, is_below
from server.training.jobs.protocol import PROTOCOL_HEADER

ERROR_REF = {"$ref": "#/components/schemas/Error"}
ERROR_SCHEMA: dict[str, Any] = {
    "title": "Error",
    "description": "Why a request was refused: `message` for people, `code` for programs, `param` the field at fault.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
ANTHROPIC_ERROR_REF = {"$ref": "#/components/schemas/AnthropicError"}
_KEY = "An API key; every operation names the scope it takes."
SECURITY: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": _KEY},
    **{name: {"type": "apiKey", "in": "header", "name": name, "description": _KEY} for name in KEY_HEADERS},
}
DESCRIPTIONS = {
    HTTPStatus.BAD_REQUEST: "The request says something that cannot be served.",
    HTTPStatus.UNAUTHORIZED: "No API key, or none that is valid.",
    HTTPStatus.FORBIDDEN: "The API key does not allow this.",
    HTTPStatus.NOT_FOUND: "What the request names does not exist.",
    HTTPStatus.CONFLICT: "Worker and server speak different versions of workers' messages.",
    HTTPStatus.PRECONDITION_FAILED: "It is not, or no longer, what If-Match or If-None-Match says.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is longer than the server reads.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is in a format that is not read here.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The Idempotency-Key was used for another request.",
    HTTPStatus.TOO_MANY_REQUESTS: "A quota is used up, or too much waits or is under way; see Retry-After.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The engine or the database does not answer; try again later.",
}
# What makes another of something of which a tenant has only so many under way.
UNFINISHED_LIMITED = {("post", "/v1/batches"), ("post", "/v1/fine_tuning/jobs")}
_METHODS = ("get", "put", "post", "delete", "patch")
# FastAPI's, for a status that its errors do not have here.
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def document_errors(app: FastAPI, mode: Literal["keys", "open"]) -> None:
    """Have `app.openapi()` give the completed document. Without keys (`mode`) it asks for none."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain(), with_keys=mode == "keys")
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any], *, with_keys: bool) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for path, operations in document["paths"].items():
        for method in operations.keys() & set(_METHODS):
            operation = operations[method]
            _hoist_definitions(operation, schemas)
            _add_errors(path, method, operation)
            if with_keys and path not in OPEN_PATHS:
                operation["security"] = [{name: [scope_of(method.upper(), path)]} for name in SECURITY]
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    schemas.update(Error=ERROR_SCHEMA, AnthropicError=anthropic_errors.ERROR_SCHEMA)
    if with_keys:
        components["securitySchemes"] = SECURITY
    return document


def _add_errors(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if _refers_to(responses.get("422"), _UNUSED_SCHEMAS[0]):
        del responses["422"]
    documented = {status for status in responses if status.isdigit() and int(status) >= HTTPStatus.BAD_REQUEST}
    possible = {str(status.value) for status in _possible(path, method, operation)}
    for status in sorted(documented | possible):
        schema = ANTHROPIC_ERROR_REF if is_below(path, MESSAGES) else ERROR_REF
        description = responses.get(status, {}).get("description") or DESCRIPTIONS[HTTPStatus(int(status))]
        responses[status] = {"description": description, "content": {"application/json": {"schema": schema}}}


def _possible(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[HTTPStatus]:
    yield HTTPStatus.SERVICE_UNAVAILABLE
    if path in OPEN_PATHS:
        return
    yield HTTPStatus.BAD_REQUEST
    yield HTTPStatus.UNAUTHORIZED
    yield HTTPStatus.FORBIDDEN
    yield HTTPStatus.NOT_FOUND
    if method != "get":
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if operation.get("requestBody", {}).get("content", {}).keys() - {"application/json"}:
        yield HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    headers = {
        parameter["name"].lower() for parameter in operation.get("parameters", ()) if parameter["in"] == "header"
    }
    if "if-match" in headers:
        yield HTTPStatus.PRECONDITION_FAILED
    if PROTOCOL_HEADER in headers:
        yield HTTPStatus.CONFLICT
    if "idempotency-key" in headers:
        yield HTTPStatus.UNPROCESSABLE_ENTITY
    is_limited = (method, path) in UNFINISHED_LIMITED or (method == "post" and path in MODEL_ROUTES)
    if is_limited or EVENT_STREAM in operation["responses"].get("200", {}).get("content", {}):
        yield HTTPStatus.TOO_MANY_REQUESTS


def _hoist_definitions(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Move the definitions within a body's schema, as pydantic writes them, to where references can find them."""
    body = operation.get("requestBody")
    if body is None:
        return
    content = {}
    for media_type, media in body["content"].items():
        schema = {key: value for key, value in media.get("schema", {}).items() if key != "$defs"}
        for name, definition in media.get("schema", {}).get("$defs", {}).items():
            schemas.setdefault(name, _with_moved_references(definition))
        content[media_type] = {**media, "schema": _with_moved_references(schema)}
    # What stands in the document may be a route's own constant.
    operation["requestBody"] = {**body, "content": content}


def _with_moved_references(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_moved_references(item) for item in schema]
    if isinstance(schema, dict):
        return {key: _with_moved_references(value) for key, value in schema.items()}
    return schema.replace("#/$defs/", "#/components/schemas/") if isinstance(schema, str) else schema


def _refers_to(response: Mapping[str, Any] | None, schema: str) -> bool:
    content = (response or {}).get("content", {}).get("application/json", {})
    return bool(content.get("schema", {}).get("$ref", "").endswith(f"/{schema}"))
