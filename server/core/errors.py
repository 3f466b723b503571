"""Every error of ours that is answered over HTTP (error_responses.py has the shape).

    ApiError
        BadRequest            400   the request says something that cannot be served
        NotFound              404   no such adapter, version, model or route
        PayloadTooLarge       413
        UnsupportedMediaType  415
        UnprocessableEntity   422   an Idempotency-Key that stands for another request
        PreconditionFailed    412   it changed since the client last saw it
        Conflict              409   not with this server, as it is now
        Unauthorized          401   no key, or none that is valid
        Forbidden             403   a valid key that does not allow this
        TooManyRequests       429   a quota is used up, or too many requests wait; it says when to try again
        Unavailable           503   the engine or the database does not answer

Design decision: 412, 422 and 400 where others answer 409. OpenAI's clients retry a 409, and none of these errors goes
away by itself. 409 is for what does, when the server is replaced by one of another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from adapters.vector.errors import AdapterError, CheckpointError, FactorsError, RecipeError, VectorError

INVALID_REQUEST = "invalid_request_error"
MAX_SHOWN_CHARS = 80
# The code of errors of which a dead engine is the reason.
ENGINE_DEAD = "engine_unavailable"

STATUS_CODES = {
    HTTPStatus.BAD_REQUEST: "invalid_request",
    HTTPStatus.UNAUTHORIZED: "invalid_api_key",
    HTTPStatus.FORBIDDEN: "insufficient_permissions",
    HTTPStatus.PRECONDITION_FAILED: "precondition_failed",
    HTTPStatus.CONFLICT: "conflict",
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


class ApiError(Exception):
    """An answer other than success. `param` names the field at fault, `code` is for programs, `message` for people."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type: str = INVALID_REQUEST
    headers: Mapping[str, str] | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or STATUS_CODES[self.status]
        if headers is not None:
            self.headers = headers


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


class Conflict(ApiError):
    """The server cannot do this as it is now; the same request may succeed later."""

    status = HTTPStatus.CONFLICT


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
    """A quota is used up or too many requests wait. `counted` is what there is too much of, `reason` is for metrics.

    "insufficient_quota" is OpenAI's word for what waiting a minute does not help.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(
        self,
        message: str,
        *,
        counted: Literal["requests", "tokens", "insufficient_quota"],
        reason: str,
        headers: Mapping[str, str],
        code: str | None = None,
    ) -> None:
        super().__init__(message, headers=headers, code=code)
        self.type = counted
        self.reason = reason


class Unavailable(ApiError):
    """The engine or the database does not answer; trying again later may help."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "server_error"


def adapter_error_code(error: AdapterError) -> str:
    """The code that stands for the kind of an AdapterError."""
    return _ADAPTER_CODES.get(type(error), "invalid_adapter")


def quoted(value: object) -> str:
    """`value` as an error message quotes it: short, whatever was sent."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object with {len(value)} keys"
    # Of a string no more than is shown is escaped.
    return short(repr(value[: MAX_SHOWN_CHARS + 1]) if isinstance(value, str) else str(value))


def short(text: str) -> str:
    """The beginning of `text`, such as a name that a client chose."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
