"""/v1/tenants/{tenant}/keys: make, list, look up and revoke API keys. The scope admin is needed (auth/scopes.py).

Design decision: making a key refuses an Idempotency-Key, which would have the answer stored, and with it the key, to be
given again. A key is in one answer and nowhere else; whoever lost that answer revokes the key and makes another.

There is no DELETE: a revoked key stays, for the audit log and usage to refer to.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.engine import Connection

from server.api.deps import AuthorDep, GatewayDep, WriteDep
from server.api.own_route import OwnRoute
from server.api.schemas.pages import NoQuery, PageQuery
from server.api.schemas.tenants import KeyCreate, KeyList, KeyObject, NewKeyObject
from server.api.writes import Answer
from server.auth.api_keys import NewKey, create_key, find_key, list_keys, new_key_id, new_secret, revoke_key
from server.auth.tenants import find_tenant
from server.core.errors import BadRequest
from server.core.idempotency import IDEMPOTENCY_HEADER

router = APIRouter(prefix="/v1/tenants/{tenant}/keys", tags=["keys"], route_class=OwnRoute)


@router.post("", status_code=201, response_model=NewKeyObject)
def make_key(
    tenant: str, body: KeyCreate, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]
) -> Response:
    """Make a key. The answer is the only place where it can be read; an Idempotency-Key is refused."""
    if author.idempotency_key is not None:
        raise BadRequest(
            "An Idempotency-Key cannot be used here: the answer would be stored, and with it the key. Leave it out; "
            "if an answer is lost, revoke the key and make another.",
            param=IDEMPOTENCY_HEADER,
            code="idempotency_not_supported",
        )
    key = NewKey(new_key_id(), new_secret(), body.name, body.scopes, body.expiry(), body.limits())

    def do(connection: Connection) -> Answer:
        made = KeyObject.of(tenant, create_key(connection, find_tenant(connection, tenant), key)).model_dump()
        detail = {name: value for name, value in made.items() if name not in ("object", "id", "tenant")}
        return Answer({**made, "key": key.secret}, 201, {"cache-control": "no-store"}, detail=detail)

    return gateway.writes.run(author, "key.create", f"{tenant}/{key.id}", do).response()


@router.get("")
def get_keys(tenant: str, gateway: GatewayDep, query: Annotated[PageQuery, Query()]) -> KeyList:
    """The keys of a tenant, newest first, also those that are revoked or have expired."""
    with gateway.database.read() as connection:
        rows, has_more = list_keys(connection, find_tenant(connection, tenant), query.after, query.limit)
    return KeyList.of(tenant, rows, has_more)


@router.get("/{key}")
def get_key(tenant: str, key: str, gateway: GatewayDep, _query: Annotated[NoQuery, Query()]) -> KeyObject:
    """One key."""
    with gateway.database.read() as connection:
        return KeyObject.of(tenant, find_key(connection, find_tenant(connection, tenant), key))


@router.post("/{key}/revoke", response_model=KeyObject)
def end_key(tenant: str, key: str, write: WriteDep, _query: Annotated[NoQuery, Query()]) -> Response:
    """End a key for good, on all gateways from the next request on. Revoking it again changes nothing."""

    def do(connection: Connection) -> Answer:
        row, is_news = revoke_key(connection, find_tenant(connection, tenant), key)
        return Answer(KeyObject.of(tenant, row).model_dump(), is_news=is_news)

    return write.run("key.revoke", f"{tenant}/{key}", do)
