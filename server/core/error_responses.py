"""Errors as they leave over HTTP, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.responses import JSONResponse

from adapters.vector.errors import AdapterError
from server.core.errors import (
    INVALID_REQUEST,
    STATUS_CODES,
    ApiError,
    BadRequest,
    UnsupportedMediaType,
    adapter_error_code,
    quoted,
    short,
)

MAX_REPORTED_ERRORS = 3
# More than there are of one value, with all types that it could have been.
MAX_READ_ERRORS = 1000
_VALIDATION_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
# Of which pydantic says "a valid dictionary or instance of" a class.
_OBJECT_EXPECTED = {"model_type", "model_attributes_type"}
_TYPE_NAMES = {"str", "int", "float", "bool", "list", "dict", "none", "nullable"}
# The parts of the request in which FastAPI looks; the rest of an error's location is the caller's own spelling.
_REQUEST_PARTS = {"body", "query", "path", "header"}


class _Part(NamedTuple):
    """A part of an error's location: a field, an item's number, or no part of the input but a branch of its type."""

    name: str | int
    is_branch: bool


_Placed = tuple[list[_Part], Mapping[str, Any]]


def error_response(
    status: int,
    message: str,
    *,
    param: str | None,
    code: str,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The one shape in which errors leave; `kind` is its type, by default the one that goes with `status`."""
    if kind is None:
        kind = INVALID_REQUEST if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        if status == HTTPStatus.UNAUTHORIZED:
            kind = "authentication_error"
    return JSONResponse(_body(message, kind, param, code), status_code=status, headers=headers)


def error_body(status: int, message: str, *, param: str | None, code: str | None = None) -> dict[str, object]:
    """The body of an error in the one shape; without `code` it has the one that goes with its status."""
    client = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    usual = STATUS_CODES[HTTPStatus.BAD_REQUEST if client else HTTPStatus.INTERNAL_SERVER_ERROR]
    code = code or next((code for known, code in STATUS_CODES.items() if known == status), usual)
    return _body(message, INVALID_REQUEST if client else "server_error", param, code)


def _body(message: str, kind: str, param: str | None, code: str) -> dict[str, object]:
    return {"error": {"message": _printable(message), "type": kind, "param": param and _printable(param), "code": code}}


def response_to(error: ApiError | AdapterError) -> JSONResponse:
    """The answer to an error of ours. An AdapterError is the caller's: its field is the param."""
    if isinstance(error, AdapterError):
        code = adapter_error_code(error)
        return error_response(HTTPStatus.BAD_REQUEST, error.message, param=error.field, code=code)
    return error_response(
        error.status, error.message, param=error.param, code=error.code, kind=error.type, headers=error.headers
    )


def error_object(error: ApiError) -> dict[str, str | None]:
    """What stands under "error" in the answer to `error`."""
    return {
        "message": _printable(error.message),
        "type": error.type,
        "param": error.param and _printable(error.param),
        "code": error.code,
    }


def internal_error() -> JSONResponse:
    """The answer to a defect of the server, which says nothing of its insides."""
    message = "The server failed to handle the request. Its log has the details under this response's x-request-id."
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, message, param=None, code="internal_error")


def validation_error(errors: Sequence[Any]) -> ApiError:
    """pydantic's errors as one BadRequest, which names the first field at fault, what came and what was expected."""
    if not errors or not isinstance(errors[0], Mapping):
        # Not pydantic's: the engine refuses a content type with a mere sentence in their place.
        sentence = "; ".join(map(str, errors)) or "The request is invalid."
        if "Only 'application/json'" in sentence:
            return UnsupportedMediaType("The body has to be JSON, with the header Content-Type: application/json.")
        return BadRequest(sentence)
    errors = _of_branches_meant(errors[:MAX_READ_ERRORS])
    told = list(dict.fromkeys(f"{field_of(error) or 'body'}: {_explain(error)}" for error in errors))
    shown = told[:MAX_REPORTED_ERRORS]
    if len(told) > len(shown):
        shown.append(f"and {len(told) - len(shown)} more")
    code = _VALIDATION_CODES.get(errors[0]["type"], "invalid_value")
    return BadRequest("; ".join(shown), param=field_of(errors[0]), code=code)


def _of_branches_meant(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """`errors` without those of union branches that were hardly meant: pydantic tells those of every branch."""
    return [error for _, error in _meant([(_path(error), error) for error in errors], 0)]


def _meant(errors: list[_Placed], depth: int) -> list[_Placed]:
    """Of errors whose paths are the same up to `depth`."""
    groups: dict[_Part | None, list[_Placed]] = {}
    for path, error in errors:
        groups.setdefault(path[depth] if depth < len(path) else None, []).append((path, error))
    meant = {part: group if part is None else _meant(group, depth + 1) for part, group in groups.items()}
    unlike = {part: _unlikeness(group, depth) for part, group in meant.items() if part is not None and part.is_branch}
    nearest = min(unlike, key=lambda part: unlike[part], default=None)
    if nearest is not None and not unlike[nearest][0]:
        meant = {part: group for part, group in meant.items() if part == nearest or part not in unlike}
    return [placed for group in meant.values() for placed in group]


def _unlikeness(errors: list[_Placed], depth: int) -> tuple[bool, bool, int]:
    """How far the input is from the branch with these errors: of another kind altogether, of another `type`, or in
    how many fields."""
    fields = [(next((part.name for part in path[depth:] if not part.is_branch), None), error) for path, error in errors]
    is_other_type = any(name == "type" and error["type"] in ("literal_error", "missing") for name, error in fields)
    return any(name is None for name, _ in fields), is_other_type, len({name for name, _ in fields})


def _path(error: Mapping[str, Any]) -> list[_Part]:
    """Where an error is, within the part of the request in which FastAPI looked.

    pydantic also names validators ("function-wrap[f()]"), branches of unions ("list[str]"), and the class that an
    object in a list was tried as.
    """
    location = list(error["loc"])
    if location and location[0] in _REQUEST_PARTS:
        location = location[1:]
    path: list[_Part] = []
    for place, part in enumerate(location):
        is_unknown = error["type"] == "extra_forbidden" and place == len(location) - 1  # whatever it is called
        is_class = bool(path) and (path[-1].is_branch or isinstance(path[-1].name, int)) and str(part)[:1].isupper()
        name = str(part).removesuffix("[]")  # as lists are called in queries
        is_branch = is_class or not name.isidentifier() or name in _TYPE_NAMES
        path.append(_Part(part, is_branch and not is_unknown and not isinstance(part, int)))
    return path


def field_of(error: Mapping[str, Any]) -> str | None:
    """The field that a pydantic error is about, as in "messages[0].role"; None when it is the body as a whole.

    Types raising their own error may name the field in `parameter`, as vLLM's do.
    """
    named = getattr(error.get("ctx", {}).get("error"), "parameter", None)
    if isinstance(named, str):
        return named
    path = ""
    for part in _path(error) if error["type"] != "json_invalid" else ():
        if isinstance(part.name, int):
            path += f"[{part.name}]"
        elif not part.is_branch:
            path += f".{short(part.name)}" if path else short(part.name)
    return path or None


def plain_message(error: Mapping[str, Any]) -> str:
    """pydantic's message, without what it puts before the words of a validator of ours."""
    return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _printable(text: str) -> str:
    # What a message quotes may hold half of a surrogate pair, which JSON can carry and UTF-8 cannot.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _explain(error: Mapping[str, Any]) -> str:
    if error["type"] in _VALIDATION_CODES:
        return plain_message(error)
    if error["type"] == "json_invalid":
        return f"not valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    said = "expected a JSON object" if error["type"] in _OBJECT_EXPECTED else plain_message(error)
    return f"{said}, got {quoted(error.get('input'))}"
