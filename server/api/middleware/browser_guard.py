"""Keeps a server without keys from web pages: its own machine's programs may use it, other sites' pages may not.

    Host             a loopback name or address, or one of TINYLORA_ALLOWED_HOSTS: a page whose own name was pointed at
                     this machine (DNS rebinding) sends that name. Every request has one but those of HTTP/1.0, which no
                     browser sends
    Origin           of a page of this server itself, or one that --allowed-origins names
    Sec-Fetch-Site   where there is no Origin: not another site's, but for a link to be followed

Design decision: one check of the browser's own headers in front of everything, and not a check of content types in
every route. Programs send neither Origin nor Sec-Fetch-Site and are not affected. A page of another port of this
machine counts as another site.

With keys it has nothing to do: a page of another site does not know the key, and no browser adds it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.middleware.cors import CorsRules, origin_not_allowed
from server.core.error_responses import response_to
from server.core.errors import ApiError, BadRequest, Forbidden, quoted

OPEN = "This server has no API keys, and so takes no requests from pages of other sites."
OWN_SITES = ("same-origin", "none")  # `none` is somebody typing the address
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::([0-9]{1,5}))?")


def nobody(_origin: str) -> bool:
    """Allows no other site's pages."""
    return False


class BrowserGuard:
    """Pure ASGI middleware, for HTTP and websockets. `allowed_hosts` may begin with "*.", or be "*", any host."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: tuple[str, ...], cors: CorsRules | None) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts
        self._allows: Callable[[str], bool] = nobody if cors is None else cors.allows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            refusal = self._wrong_host(headers, scope.get("http_version", "1.1")) or self._wrong_page(
                headers, scope.get("method", "GET")
            )
            if refusal is not None:
                await response_to(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _wrong_host(self, headers: Headers, version: str) -> ApiError | None:
        hosts = headers.getlist("host")
        if not hosts and version != "1.0":
            return BadRequest(
                "There is no Host header, which every request has since HTTP/1.1 (RFC 9112); send one, as in "
                "'Host: localhost:8000'.",
                param="host",
                code="host_missing",
            )
        for host in hosts:
            if not self._is_ours(host):
                return Forbidden(
                    "This server has no API keys, and so answers only requests to this machine (localhost); this one "
                    f"is to {quoted(host)}. If that is a name of this server, set TINYLORA_ALLOWED_HOSTS to it, or "
                    "set TINYLORA_ADMIN_KEY and send keys.",
                    param="host",
                    code="host_not_allowed",
                )
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return "*" in self._allowed_hosts
        name = match[1].strip("[]").lower().removesuffix(".")
        try:
            address = ipaddress.ip_address(name)
            if address.is_loopback:
                return True
        except ValueError:
            if name == "localhost" or name.endswith(".localhost"):
                return True
        return any(fnmatchcase(name, allowed) for allowed in self._allowed_hosts)

    def _wrong_page(self, headers: Headers, method: str) -> Forbidden | None:
        origins, host = headers.getlist("origin"), headers.get("host", "")
        site = headers.get("sec-fetch-site", "none")  # browsers leave it out on plain HTTP, but for localhost
        for origin in origins:
            is_own = site in OWN_SITES and _is_same(origin, host)
            if not (is_own or self._allows(origin)):
                return origin_not_allowed(origin, OPEN)
        if origins or site in OWN_SITES or self._allows("*") or _is_link(headers, method):
            return None
        return origin_not_allowed(f"another site ({site[:20]})", OPEN)


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from `host`, by name and port."""
    try:
        page = urlsplit(origin)
        port = page.port
    except ValueError:
        return False
    match = _HOST.fullmatch(host)
    if match is None or page.scheme not in DEFAULT_PORTS or page.hostname is None:
        return False
    default = DEFAULT_PORTS[page.scheme]
    return (page.hostname, port or default) == (match[1].strip("[]").lower(), int(match[2] or default))


def _is_link(headers: Headers, method: str) -> bool:
    """Somebody follows a link, or the page sends them: it cannot read what comes, and reading changes nothing."""
    to_page = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return method in ("GET", "HEAD") and to_page
