"""Who a request is from, and whether it may do what it asks: API keys, as `Authorization: Bearer <key>`, or in the
header in which Anthropic's clients send them (x-api-key) or Azure's (api-key).

Everything is denied by default. A request without a valid key learns nothing, not even which routes exist; with one,
whatever it allows, it is told of a path that no route has. Unknown, revoked and expired keys, and those of disabled
tenants, are refused in the same words. A server without any key is open: everyone is the default tenant and may do
everything but make tenants and keys.

`OpenAI-Organization: <tenant>` (the official clients' `organization`) has an admin act for that tenant, with its
adapters and audit log, and without its quotas. Any other key may only name its own tenant. An open server ignores it.

A browser asks without a key whether its page may send one (CORS): that is answered before it comes here where
--allowed-origins names pages, and refused here like any other request without a key where it does not.

A line of a batch, which the server asks itself, comes without a key: its scope says whose it is (request_state.py).

Tenants' keys are looked up by their digest (api_keys.py), so the time that it takes says nothing of the key itself. The
operator's (operator_keys.py) are compared in constant time.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Literal

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth.api_keys import any_key, digest_of, principal_of_row, tenant_of_row
from server.auth.operator_keys import OperatorKeys
from server.auth.scopes import scope_of
from server.core.clock import now
from server.core.error_responses import response_to
from server.core.errors import ApiError, Forbidden, NotFound, Unauthorized, quoted
from server.core.months import month_start
from server.core.paths import METRICS_PATH, OPEN_PATHS, OPERATOR_PATHS, is_below
from server.core.principal import DEFAULT_TENANT_NAME, OPEN_PRINCIPAL, ORGANIZATION_HEADER, KeyScope, Principal, Tenant
from server.core.request_state import background_principal, state_of
from server.db.database import Database
from server.db.point_reads import PointReads

Mode = Literal["keys", "open"]
KEY_HEADERS = ("x-api-key", "api-key")
MISSING = "There is no API key in the request; send one as 'Authorization: Bearer <key>' (or 'x-api-key: <key>')."
INVALID = "The API key is not valid: it is unknown, revoked or expired. Ask the operator of this server for another."


def auth_mode(keys: OperatorKeys, database: Database) -> Mode:
    """How a server with these keys in its configuration and database answers; settled once, when it starts."""
    if keys.scopes_by_digest:
        return "keys"
    with database.read() as connection:
        return "keys" if any_key(connection) else "open"


def key_of(headers: Headers) -> str | None:
    """The key in a request's headers, bearer before the others; None when there is none."""
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    keys = (bearer if kind.lower() == "bearer" else "", *(headers.get(name, "") for name in KEY_HEADERS))
    return next((key.strip() for key in keys if key.strip()), None)


class AuthMiddleware:
    """Pure ASGI middleware: sets the principal of requests, or refuses them (401, 403, 404).

    `metrics_without_key` lets anyone read /metrics; `also_open` are more paths that anyone may read. `unknown_path` is
    the answer to a request whose path no route has, None where one has it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        mode: Mode,
        keys: OperatorKeys,
        reads: PointReads,
        metrics_without_key: bool,
        also_open: Set[str] = frozenset(),
        unknown_path: Callable[[Scope], NotFound | None],
    ) -> None:
        self._app = app
        self._mode = mode
        self._keys = keys
        self._reads = reads
        self._unknown_path = unknown_path
        self._open_paths = OPEN_PATHS | also_open | ({METRICS_PATH} if metrics_without_key else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._needs_no_key(scope):
            await self._app(scope, receive, send)
            return
        inside = background_principal(scope)
        try:
            principal = inside or await self._principal(Headers(scope=scope))
            self._check(principal, scope)
        except ApiError as error:
            await response_to(error)(scope, receive, send)
            return
        state_of(scope).principal = principal
        state_of(scope).background = inside is not None
        with structlog.contextvars.bound_contextvars(tenant=principal.tenant.name, key_id=principal.key_id):
            await self._app(scope, receive, send)

    def _needs_no_key(self, scope: Scope) -> bool:
        return scope.get("method") in ("GET", "HEAD") and scope["path"] in self._open_paths

    async def _principal(self, headers: Headers) -> Principal:
        if self._mode == "open":
            return OPEN_PRINCIPAL
        key = key_of(headers)
        if key is None:
            raise Unauthorized(MISSING)
        # Headers are bytes, shown as Latin-1.
        digest = digest_of(key.encode("latin-1"))
        organization = headers.get(ORGANIZATION_HEADER)
        scopes = self._keys.scopes_of(digest)
        if scopes is not None:
            principal = Principal(await self._tenant(DEFAULT_TENANT_NAME), None, scopes)
        else:
            at = now()
            row = await self._reads.key(digest, month_start(at))
            known = None if row is None else principal_of_row(row, at)
            if known is None:
                raise Unauthorized(INVALID)
            principal = known
        return await self._acting_for(principal, organization)

    async def _acting_for(self, principal: Principal, organization: str | None) -> Principal:
        if organization is None or organization == principal.tenant.name:
            return principal
        if not principal.may("admin"):
            raise Forbidden(
                f"The API key belongs to the tenant {quoted(principal.tenant.name)}; leave out OpenAI-Organization, "
                f"which is {quoted(organization)}.",
                param=ORGANIZATION_HEADER.lower(),
                code="mismatched_organization",
            )
        return Principal(await self._tenant(organization), principal.key_id, principal.scopes, principal.key_limits)

    async def _tenant(self, name: str) -> Tenant:
        row = await self._reads.tenant(name, month_start(now()))
        if row is None:
            raise NotFound(
                f"OpenAI-Organization is {quoted(name)}, and there is no tenant of this name; GET /v1/tenants lists "
                "those there are.",
                param=ORGANIZATION_HEADER.lower(),
                code="tenant_not_found",
            )
        return tenant_of_row(row)

    def _check(self, principal: Principal, scope: Scope) -> None:
        """Forbidden when the principal's key does not allow the request; NotFound when no key could."""
        path = scope["path"]
        if self._mode == "open":
            if is_below(path, OPERATOR_PATHS):
                raise Forbidden(
                    "This server has no keys, so nobody may administer it. Start it with TINYLORA_ADMIN_KEY, and "
                    "send that key."
                )
            return
        if path in self._open_paths:
            return  # a method that it does not have: 405, as for a path that the key allows
        needed: KeyScope = scope_of(scope.get("method", "GET"), path)
        if not principal.may(needed):
            if (unknown := self._unknown_path(scope)) is not None:
                raise unknown
            raise Forbidden(
                f"This takes an API key with the scope '{needed}'; the scopes of this one are "
                f"{', '.join(sorted(principal.scopes))}.",
                headers={"www-authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
            )
