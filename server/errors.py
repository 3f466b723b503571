"""Every error that leaves over HTTP, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

    ApiError
        BadRequest            400   the request says something that cannot be served
        NotFound              404   no such adapter, version, model or route
        PayloadTooLarge       413
        UnsupportedMediaType  415
        UnprocessableEntity   422   an Idempotency-Key that stands for another request
        PreconditionFailed    412   it changed since the client last saw it
        Unauthorized          401   no key, or none that is valid
        Forbidden             403   a valid key that does not allow this
        TooManyRequests       429   a quota is used up, or too many requests wait; it says when to try again
        Unavailable           503   the engine or the database does not answer

Design decision: no 409. OpenAI's clients retry it, and none of our errors goes away by itself.

It does not translate vLLM's own exceptions: the engine's handlers do, and stay in place where they know better.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, cast

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, Response

from adapters.errors import AdapterError, CheckpointError, FactorsError, RecipeError, VectorError

ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]

INVALID_REQUEST = "invalid_request_error"
MAX_REPORTED_ERRORS = 3
MAX_SHOWN_CHARS = 80

_CODES = {
    HTTPStatus.BAD_REQUEST: "invalid_request",
    HTTPStatus.UNAUTHORIZED: "invalid_api_key",
    HTTPStatus.FORBIDDEN: "insufficient_permissions",
    HTTPStatus.PRECONDITION_FAILED: "precondition_failed",
    HTTPStatus.UNPROCESSABLE_ENTITY: "unprocessable",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
_ADAPTER_CODES: dict[type[AdapterError], str] = {
    RecipeError: "invalid_recipe",
    VectorError: "invalid_vector",
    FactorsError: "factors_mismatch",
    CheckpointError: "invalid_checkpoint",
}
_VALIDATION_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_TYPE_NAMES = {"str", "int", "float", "bool", "list", "dict", "none", "nullable"}
# The parts of the request in which FastAPI looks; the rest of an error's location is the caller's own spelling.
_REQUEST_PARTS = {"body", "query", "path", "header"}


class ApiError(Exception):
    """An answer other than success. `param` names the field at fault, `code` is for programs, `message` for people."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type: str = INVALID_REQUEST
    headers: Mapping[str, str] | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or _CODES[self.status]


class BadRequest(ApiError):
    """The request says something that cannot be served."""

    status = HTTPStatus.BAD_REQUEST


class NotFound(ApiError):
    """What the request names does not exist, or no longer."""

    status = HTTPStatus.NOT_FOUND


class PayloadTooLarge(ApiError):
    """The body is longer than the server reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(ApiError):
    """The body is in a format that this route does not read."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class UnprocessableEntity(ApiError):
    """The request is well formed, and contradicts an earlier one."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class PreconditionFailed(ApiError):
    """What the request would change is not, or no longer, what its If-Match or If-None-Match says."""

    status = HTTPStatus.PRECONDITION_FAILED


class Unauthorized(ApiError):
    """No API key, or none that is valid."""

    status = HTTPStatus.UNAUTHORIZED
    type = "authentication_error"
    headers: Mapping[str, str] | None = {"www-authenticate": "Bearer"}


class Forbidden(ApiError):
    """The API key is valid and does not allow this."""

    status = HTTPStatus.FORBIDDEN
    type = "permission_error"


class TooManyRequests(ApiError):
    """A quota is used up or too many requests wait. `counted` is what there is too much of, `reason` is for metrics."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(
        self, message: str, *, counted: Literal["requests", "tokens"], reason: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(message)
        self.type = counted
        self.reason = reason
        self.headers = headers


class Unavailable(ApiError):
    """The engine or the database does not answer; trying again later may help."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "server_error"


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
    usual = _CODES[HTTPStatus.BAD_REQUEST if client else HTTPStatus.INTERNAL_SERVER_ERROR]
    code = next((code for known, code in _CODES.items() if known == status), usual)
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


def adapter_error_code(error: AdapterError) -> str:
    """The code that stands for the kind of an AdapterError."""
    return _ADAPTER_CODES.get(type(error), "invalid_adapter")


def internal_error() -> JSONResponse:
    """The answer to a defect of the server, which says nothing of its insides."""
    message = "The server failed to handle the request. Its log has the details under this response's x-request-id."
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, message, param=None, code="internal_error")


def install_error_handlers(app: FastAPI) -> ExceptionHandler:
    """Make `app` answer every error in OpenAI's shape; call it after the engine has added its routes and handlers.

    Returns the handler of exceptions that nothing else handles, for the outermost middleware.
    """
    handlers: dict[Any, Any] = app.exception_handlers
    handlers[ApiError] = _handle_own
    handlers[AdapterError] = _handle_own
    # FastAPI's class is the narrower one, and vLLM registers a handler for it.
    handlers[HTTPException] = handlers[StarletteHTTPException] = _handle_http
    handlers[RequestValidationError] = _handle_validation
    # The serving code raises ValueError for a request it cannot serve. The engine's own handler says it better.
    handlers.setdefault(ValueError, _handle_value_error)
    # Of the engine's routes for what the model cannot do. A 501 would be retried, in vain.
    handlers[NotImplementedError] = _handle_unsupported
    engine_handler = cast(ExceptionHandler | None, handlers.get(Exception))

    async def handle_unexpected(request: Request, error: Exception) -> Response:
        # Some exceptions that only the engine knows are the client's fault, a chat template's refusal for one.
        if engine_handler is not None:
            response = await engine_handler(request, error)
            if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return response
        return internal_error()

    handlers[Exception] = handle_unexpected
    return handle_unexpected


async def _handle_own(_request: Request, error: Exception) -> Response:
    return response_to(cast(ApiError | AdapterError, error))


async def _handle_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    status, message = error.status_code, str(error.detail)
    if status == HTTPStatus.NOT_FOUND and message == HTTPStatus.NOT_FOUND.phrase:
        message = f"There is no route {_request.method} {_request.url.path:.200}."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{_request.url.path:.200} does not take {_request.method}."
    code = _CODES.get(HTTPStatus(status), "invalid_request" if status < 500 else "internal_error")
    return error_response(status, message, param=None, code=code, headers=error.headers)


async def _handle_value_error(_request: Request, error: Exception) -> Response:
    return error_response(HTTPStatus.BAD_REQUEST, str(error), param=None, code="invalid_request")


async def _handle_unsupported(_request: Request, error: Exception) -> Response:
    message = str(error) or "The model does not support this."
    return error_response(HTTPStatus.BAD_REQUEST, message, param=None, code="not_supported")


async def _handle_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_to(validation_error(error.errors()))


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
    return is_unknown or (part.isidentifier() and part not in _TYPE_NAMES)


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


def quoted(value: object) -> str:
    """`value` as an error message quotes it: short, whatever was sent."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object with {len(value)} keys"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _printable(text: str) -> str:
    # What a message quotes may hold half of a surrogate pair, which JSON can carry and UTF-8 cannot.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _explain(error: Mapping[str, Any]) -> str:
    if error["type"] in _VALIDATION_CODES:
        return str(error["msg"])
    if error["type"] == "json_invalid":
        return f"not valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    return f"{error['msg']}, got {quoted(error.get('input'))}"
