"""The route class of the gateway's own routes.

An exception that is not one of ours is our defect, hence a 500. Without this the engine's handlers, which take any
ValueError for the client's mistake, would answer for our routes too.

Bodies that FastAPI reads are bounded and parsed here; routes that read them by themselves (uploads) bound them there. A
query parameter that is no list may be given once: of two values FastAPI takes the last. A condition in the headers of a
request is refused where it would not be looked at: who sends one counts on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope

from adapters.vector.errors import AdapterError
from server.api.schemas.pages import StrictQuery
from server.core.errors import ApiError, BadRequest, quoted
from server.core.json_text import parse_json
from server.core.off_loop import off_loop
from server.core.request_body import MAX_JSON_BYTES, read_json, replay

# FastAPI goes through all of them for each that the route does not have.
MAX_PARAMETERS = 1000


class Defect(Exception):
    """An unexpected exception in one of our routes; its cause is what happened."""


class _Parsed(Request):
    """A request whose body was parsed already."""

    def __init__(self, scope: Scope, receive: Receive, value: Any) -> None:
        super().__init__(scope, receive)
        self._value = value

    async def json(self) -> Any:
        return self._value


class OwnRoute(APIRoute):
    """Lets our errors pass, and turns everything else into a Defect. A path without a name where one belongs
    ("/v1/adapters/") is none of its paths."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As the router asks."""
        match, found = super().matches(scope)
        return (Match.NONE, {}) if "" in found.get("path_params", {}).values() else (match, found)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        headers = {parameter.alias.lower() for part in self.dependant.dependencies for parameter in part.header_params}
        lists = {name for parameter in self.dependant.query_params for name in _lists(parameter.field_info.annotation)}

        async def handle_or_defect(request: Request) -> Response:
            try:
                _check_once(request.query_params, lists)
                _check_conditions(request, headers)
                if self.body_field is not None:
                    body = await read_json(request.headers, request.receive, MAX_JSON_BYTES)
                    value = await off_loop(len(body), parse_json, body) if body else None
                    request = _Parsed(request.scope, replay(body, request.receive), value)
                return await handle(request)
            except (ApiError, AdapterError, HTTPException, RequestValidationError, ClientDisconnect):
                raise
            except Exception as error:
                raise Defect(f"{type(error).__name__} in {request.method} {request.url.path}") from error

        return handle_or_defect


def _lists(query: Any) -> set[str]:
    return query.lists() if isinstance(query, type) and issubclass(query, StrictQuery) else set()


def _check_once(parameters: QueryParams, lists: Collection[str]) -> None:
    """BadRequest for a parameter that is given more than once and is none of `lists`, or too many of them."""
    number = len(parameters.multi_items())
    if number > MAX_PARAMETERS:
        raise BadRequest(
            f"the query has {number} parameters, expected at most {MAX_PARAMETERS}", code="too_many_parameters"
        )
    for name, times in Counter(name for name, _ in parameters.multi_items()).items():
        if times > 1 and name not in lists:
            raise BadRequest(
                f"the query has {quoted(name)} {times} times, expected it once", param=name, code="invalid_value"
            )


def _check_conditions(request: Request, taken: Collection[str]) -> None:
    """BadRequest for an If-Match, or with a write an If-None-Match, that is none of the headers `taken`.

    If-None-Match with a GET means no more than that the client has a copy, so it may get another.
    """
    for name in ("If-Match",) if request.method == "GET" else ("If-Match", "If-None-Match"):
        if name.lower() in request.headers and name.lower() not in taken:
            raise BadRequest(
                f"{request.method} {request.url.path:.200} takes no {name}, and would do the same whatever it says; "
                "leave the header out.",
                param=name.lower(),
                code="not_supported",
            )
