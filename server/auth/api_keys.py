"""Tenants' API keys: made at random, shown once, stored as a digest.

Design decision: plain SHA-256, and no salt or slow hash. Those protect passwords, which can be guessed; a key is 256
random bits and cannot. So a request's key is found by an index on its digest.

A key never changes and is not deleted but revoked, so the audit log and usage keep their meaning. Every request reads
its key's row, so a revocation holds on all gateways from the next request on.

Functions of a connection are to be called within a transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.principal import DEFAULT_TENANT_NAME, KeyScope, Limits, Principal, Tenant
from server.db.point_reads import KeyRow, TenantRow
from server.db.tables import API_KEYS, TENANTS

KEY_PREFIX = "sk-tl-"
SECRET_BYTES = 32
HINT_CHARS = 4


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored; `secret` is the key itself. `expires_at` is in seconds since 1970."""

    id: str
    secret: str
    name: str
    scopes: Sequence[KeyScope]
    expires_at: int | None
    limits: Limits


def new_secret() -> str:
    """A key that nobody has had before."""
    return KEY_PREFIX + secrets.token_hex(SECRET_BYTES)


def new_key_id() -> str:
    """The name by which a key is spoken of."""
    return f"key_{secrets.token_hex(12)}"


def digest_of(secret: bytes) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(secret).hexdigest()


def principal_of_row(row: KeyRow, at: float) -> Principal | None:
    """Who comes with this key `at` some time; None when it is revoked, has expired, or its tenant is disabled."""
    if has_ended(row, at) or row.tenant.disabled_at is not None:
        return None
    scopes = cast(frozenset[KeyScope], frozenset(row.scopes.split()))
    return Principal(tenant_of_row(row.tenant), row.id, scopes, key_limits(row))


def has_ended(key: KeyRow | Row[Any], at: float) -> bool:
    """Whether the key is revoked, or has expired `at` some time."""
    return key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= at)


def is_still_valid(connection: Connection, principal: Principal) -> bool:
    """Whether a request with the principal's key would be taken now. The operator's keys of settings always are."""
    keys = sa.select(API_KEYS, TENANTS.c.disabled_at).join_from(API_KEYS, TENANTS)
    key = connection.execute(keys.where(API_KEYS.c.id == principal.key_id)).one_or_none()
    return key is None or not (has_ended(key, now()) or key.disabled_at is not None)


def key_limits(key: KeyRow | Row[Any]) -> Limits:
    """The quotas of the key itself."""
    return Limits(key.requests_per_minute, key.tokens_per_minute, key.max_concurrent_requests)


def tenant_of_row(row: TenantRow | Row[Any]) -> Tenant:
    """The tenant as the rest of the server knows it, of a row of TENANTS with `month_tokens` (point_reads.py)."""
    limits = Limits(
        row.requests_per_minute,
        row.tokens_per_minute,
        row.max_concurrent_requests,
        row.priority_requests_per_minute,
        row.tokens_per_month,
    )
    return Tenant(row.id, row.name, row.weight, limits, row.max_adapters, row.month_tokens or 0)


def any_key(connection: Connection) -> bool:
    """Whether a key was ever made."""
    return connection.execute(sa.select(API_KEYS.c.id).limit(1)).one_or_none() is not None


def create_key(connection: Connection, tenant: Row[Any], key: NewKey) -> Row[Any]:
    """Store the digest of a key of `tenant`, a row of TENANTS. BadRequest for an admin's key of any but the default."""
    if "admin" in key.scopes and tenant.name != DEFAULT_TENANT_NAME:
        raise BadRequest(
            f"scopes has 'admin', which administers all tenants and is the operator's: make such a key for the tenant "
            f"'{DEFAULT_TENANT_NAME}', and leave 'admin' out for {quoted(tenant.name)}.",
            param="scopes",
            code="invalid_value",
        )
    values = {
        "id": key.id,
        "tenant_id": tenant.id,
        "name": key.name,
        "hash": digest_of(key.secret.encode()),
        "hint": key.secret[-HINT_CHARS:],
        "scopes": " ".join(key.scopes),
        "created_at": now(),
        "expires_at": key.expires_at,
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "max_concurrent_requests": key.limits.concurrent_requests,
    }
    return connection.execute(API_KEYS.insert().values(values).returning(*API_KEYS.c)).one()


def find_key(connection: Connection, tenant: Row[Any], key_id: str) -> Row[Any]:
    """A key of `tenant` by its id. NotFound when it has none with this id, whoever else may."""
    row = connection.execute(sa.select(API_KEYS).where(*_is_key(tenant, key_id))).one_or_none()
    if row is None:
        raise NotFound(
            f"The tenant {quoted(tenant.name)} has no key {quoted(key_id)}; GET /v1/tenants/{tenant.name}/keys lists "
            "those it has.",
            param="key",
            code="key_not_found",
        )
    return row


def list_keys(
    connection: Connection, tenant: Row[Any], after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], bool]:
    """Keys of `tenant`, newest first, behind the one with the id `after`; and whether there are more."""
    keys = sa.select(API_KEYS).where(API_KEYS.c.tenant_id == tenant.id)
    if after is not None:
        try:
            last = find_key(connection, tenant, after)
        except NotFound as error:
            raise BadRequest(error.message, param="after", code="invalid_value") from None
        keys = keys.where(sa.tuple_(API_KEYS.c.created_at, API_KEYS.c.id) < (last.created_at, last.id))
    keys = keys.order_by(API_KEYS.c.created_at.desc(), API_KEYS.c.id.desc()).limit(limit + 1)
    rows = connection.execute(keys).all()
    return rows[:limit], len(rows) > limit


def revoke_key(connection: Connection, tenant: Row[Any], key_id: str) -> tuple[Row[Any], bool]:
    """End a key for good; returns it, and whether it was not revoked before, for then it stays as it is. Raises as
    `find_key`."""
    revoke = API_KEYS.update().where(*_is_key(tenant, key_id), API_KEYS.c.revoked_at.is_(None))
    revoked = connection.execute(revoke.values(revoked_at=now()))
    return find_key(connection, tenant, key_id), revoked.rowcount > 0


def _is_key(tenant: Row[Any], key_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    # PostgreSQL takes no text with a NUL in it.
    return API_KEYS.c.id == key_id.replace("\0", ""), API_KEYS.c.tenant_id == tenant.id
