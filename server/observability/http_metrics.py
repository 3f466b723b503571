"""How long HTTP requests take, by route and class of status.

The label is the route's template ("/v1/adapters/{name:path}"), never a path that a client chose: the number of time
series is bounded by the code. Streams count until their last byte, and as 5xx where they
end in an error of the server.
"""

from __future__ import annotations

from prometheus_client import Histogram
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.request_state import RequestState, state_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
# A request that was refused before it reached the router, or whose path no route has.
NO_ROUTE = "none"
# nginx's status of a request whose client left before the answer.
LEFT = 499


class NoteRoute:
    """Pure ASGI middleware, to be the innermost one: the router writes only into the scope that it is given."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            template = getattr(scope.get("route"), "path", None)
            if template is not None:
                state_of(scope).route = template


def status_class(status: int) -> str:
    """The label of an HTTP status: "2xx", and "499" for LEFT, which is nobody's error."""
    return str(LEFT) if status == LEFT else f"{status // 100}xx"


def observe_seconds(histogram: Histogram, state: RequestState) -> None:
    """Count a request that has ended. `histogram` has the labels method, route, status."""
    method = state.method if state.method in METHODS else OTHER_METHOD
    status = status_class(LEFT if state.counted_status is None else state.counted_status)
    histogram.labels(method, state.route or NO_ROUTE, status).observe(state.seconds)
