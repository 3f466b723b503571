"""The app's exception handlers: whatever is raised leaves in OpenAI's shape.

It does not translate vLLM's own exceptions: the engine's handlers do, and stay in place where they know better.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from adapters.vector.errors import AdapterError
from server.api.unknown_paths import methods_of, no_route
from server.core.error_responses import error_response, internal_error, response_to, validation_error
from server.core.errors import STATUS_CODES, ApiError

ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]


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
    status, message, headers = error.status_code, str(error.detail), error.headers
    if status == HTTPStatus.NOT_FOUND and message == HTTPStatus.NOT_FOUND.phrase:
        return response_to(no_route(_request.app.routes, _request.scope))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        # Of several routes with this path the router asked one.
        methods = ", ".join(methods_of(_request.app.routes, _request.scope))
        message, headers = f"{_request.url.path:.200} takes {methods}, not {_request.method}.", {"allow": methods}
    code = STATUS_CODES.get(HTTPStatus(status), "invalid_request" if status < 500 else "internal_error")
    return error_response(status, message, param=None, code=code, headers=headers)


async def _handle_value_error(_request: Request, error: Exception) -> Response:
    return error_response(HTTPStatus.BAD_REQUEST, str(error), param=None, code="invalid_request")


async def _handle_unsupported(_request: Request, error: Exception) -> Response:
    message = str(error) or "The model does not support this."
    return error_response(HTTPStatus.BAD_REQUEST, message, param=None, code="not_supported")


async def _handle_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_to(validation_error(error.errors()))
