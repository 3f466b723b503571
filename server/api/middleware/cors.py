"""Which web pages of other sites may read answers (CORS): those that vLLM's --allowed-origins names, by default none.

Design decision: around the whole app, and not around the engine's routes only, as vLLM's own middleware would be: a
page can then read why keys or quotas refused it, instead of "CORS error". vLLM's is given nothing to allow.

An origin may have `*` in it, since some browsers give an extension another name on every machine: moz-extension://*.
"""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from server.api.middleware.anthropic_errors import REQUEST_ID
from server.core.error_responses import response_to
from server.core.errors import Forbidden, quoted
from server.core.retry_headers import retry_headers
from server.limits.rate_limit_headers import NO_RETRY, limit_headers

# Of the headers of an answer a page sees only a few, unless it is told that it may see others.
EXPOSED_HEADERS = (
    "x-request-id",
    REQUEST_ID,
    *(f"x-tinylora-{what}" for what in ("adapter", "dtype", "recipe", "factors")),
    "etag",
    "location",
    "link",
    "idempotent-replayed",
    *retry_headers(0),
    *NO_RETRY,
    *(name for counted in ("requests", "tokens", "month-tokens") for name in limit_headers(counted, 0, 0, 0)),
)


@dataclass(frozen=True, slots=True)
class CorsRules:
    """`origins` are exact or have `*` for any run of characters but `/`; "*" alone is every page there is."""

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression that matches the origins with a `*` in them."""
        return "|".join("[^/]*".join(map(re.escape, origin.split("*"))) for origin in self.origins if "*" in origin)

    def allows(self, origin: str) -> bool:
        """Whether pages of `origin` may use the server."""
        return "*" in self.origins or origin in self.origins or re.fullmatch(self.pattern, origin) is not None


def take_cors(args: Namespace) -> CorsRules | None:
    """The rules out of vLLM's arguments, whose own middleware then allows nothing; None when no origin is allowed."""
    origins, credentials = tuple(args.allowed_origins or ()), args.allow_credentials
    args.allowed_origins, args.allow_credentials = [], False
    if not origins:
        return None
    return CorsRules(origins, tuple(args.allowed_methods), tuple(args.allowed_headers), credentials)


class Cors(CORSMiddleware):
    """Starlette's, with a refusal that says what would allow it. The operator named the pages, so a page from the
    internet may use a server in the local network (a private network, as browsers say)."""

    def __init__(self, app: ASGIApp, *, rules: CorsRules) -> None:
        super().__init__(
            app,
            allow_origins=rules.origins,
            allow_origin_regex=rules.pattern or None,
            allow_methods=rules.methods,
            allow_headers=rules.headers,
            allow_credentials=rules.credentials,
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether a page may send a request."""
        origin = request_headers["origin"]
        if not self.is_allowed_origin(origin):
            return response_to(origin_not_allowed(origin, "This server does not answer pages of every site."))
        return super().preflight_response(request_headers)


def origin_not_allowed(origin: str, why: str) -> Forbidden:
    """The answer to a page that is not allowed, which is read by whoever looks into the browser's network log."""
    return Forbidden(
        f"{why} This request is from a page of {quoted(origin)}; to allow that, start the server with "
        f"--allowed-origins '[\"{_shown(origin)}\"]'.",
        param="origin",
        code="origin_not_allowed",
    )


def _shown(origin: str) -> str:
    # To be copied into a shell: what has other characters than origins have is not repeated there.
    return origin if re.fullmatch(r"[A-Za-z0-9+.:/\[\]_-]{1,200}", origin) else "https://..."
