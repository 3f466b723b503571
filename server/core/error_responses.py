"""Errors as they leave over HTTP, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

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
)

MAX_REPORTED_ERRORS = 3
_VALIDATION_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_TYPE_NAMES = {"str", "int", "float", "bool", "list", "dict", "none", "nullable"}
# The parts of the request in which FastAPI looks; the rest of an error's location is the caller's own spelling.
_REQUEST_PARTS = {"body", "query", "path", "header"}


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


def error_body(status: int, message: str, *, param: str | None) -> dict[str, object]:
    """The body of an error of which only its status is known, in the one shape."""
    client = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    usual = STATUS_CODES[HTTPStatus.BAD_REQUEST if client else HTTPStatus.INTERNAL_SERVER_ERROR]
    code = next((code for known, code in STATUS_CODES.items() if known == status), usual)
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
    errors = _of_branches_meant(errors)
    told = list(dict.fromkeys(f"{field_of(error) or 'body'}: {_explain(error)}" for error in errors))
    shown = told[:MAX_REPORTED_ERRORS]
    if len(told) > len(shown):
        shown.append(f"and {len(told) - len(shown)} more")
    code = _VALIDATION_CODES.get(errors[0]["type"], "invalid_value")
    return BadRequest("; ".join(shown), param=field_of(errors[0]), code=code)


def _of_branches_meant(errors: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """`errors` without those of union branches that the input's own word (a message's `role`, say) rules out.

    pydantic tells the errors of every branch in turn; without this, the first branch is told, whatever was meant.
    """
    literals = [error["loc"] for error in errors if error["type"] == "literal_error"]
    ruled_out = {tuple(loc[:-1]) for loc in literals if len(loc) > 2 and _is_branch(loc[-3], loc[-2])}
    meant = [error for error in errors if not any(tuple(error["loc"][: len(branch)]) == branch for branch in ruled_out)]
    return meant or errors


def _is_field(part: str, error: Mapping[str, Any]) -> bool:
    is_unknown = error["type"] == "extra_forbidden" and part == error["loc"][-1]  # whatever it is called
    name = part.removesuffix("[]")  # as lists are called in queries
    return is_unknown or (name.isidentifier() and name not in _TYPE_NAMES)


def _is_branch(before: object, part: object) -> bool:
    """Whether `part` of a location names the class that an object in a list was tried as, not a field."""
    return isinstance(before, int) and isinstance(part, str) and part[0].isupper()


def field_of(error: Mapping[str, Any]) -> str | None:
    """The field that a pydantic error is about, as in "messages[0].role"; None when it is the body as a whole.

    Types raising their own error may name the field in `parameter`, as vLLM's do.
    """
    named = getattr(error.get("ctx", {}).get("error"), "parameter", None)
    if isinstance(named, str):
        return named
    location = list(error["loc"])
    if location and location[0] in _REQUEST_PARTS:
        location = location[1:]
    path, before = "", None
    for part in location if error["type"] != "json_invalid" else ():
        if isinstance(part, int):
            path += f"[{part}]"
        # pydantic also names validators ("function-wrap[f()]") and branches of unions ("list[str]").
        elif _is_field(part, error) and not _is_branch(before, part):
            path += f".{part}" if path else part
        before = part
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
    return f"{plain_message(error)}, got {quoted(error.get('input'))}"
