"""/v1/adapters/{name}/aliases: names such as `prod` for a version, moved in one step and taken back in one.

Design decision: PUT says what an alias stands for from now on, as a whole. There is no way to add or remove one of its
versions, by which two clients could leave a mixture that neither of them asked for.

What moves mean is in `server.registry.alias_changes`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.engine import Connection

from server.api.deps import CONDITIONAL, GatewayDep, PreconditionDep, PrincipalDep, WriteDep
from server.api.own_route import OwnRoute
from server.api.routes.adapter_paths import adapter_of, conditional_answer, written_by
from server.api.schemas.aliases import AliasChange, AliasDeleted, AliasList, AliasMoveList, AliasObject
from server.api.schemas.pages import NoQuery, PageQuery
from server.api.writes import Answer
from server.core.errors import BadRequest, quoted
from server.core.names import Reference, check_alias
from server.core.paths import ADAPTERS_PREFIX
from server.registry import alias_changes, aliases

router = APIRouter(prefix=ADAPTERS_PREFIX, tags=["aliases"], route_class=OwnRoute)


@router.get("/{name:path}/aliases")
def list_aliases(
    name: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> AliasList:
    """All aliases of an adapter, by name."""
    reference = adapter_of(name)
    with gateway.database.read() as connection:
        found = aliases.list_aliases(connection, principal.tenant.id, reference)
    return AliasList(data=[AliasObject.of(reference, alias) for alias in found])


@router.put("/{name:path}/aliases/{alias}", response_model=AliasObject, responses={201: {"model": AliasObject}})
def set_alias(
    name: str,
    alias: str,
    change: AliasChange,
    write: WriteDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Move an alias to one version, or to several with weights; makes it when there is none."""
    reference, targets = adapter_of(name), change.targets()
    check_alias(alias, "alias")

    def do(connection: Connection) -> Answer:
        moved, is_new = alias_changes.set_alias(connection, write.tenant_id, reference, alias, targets, precondition)
        body = AliasObject.of(reference, moved).model_dump()
        return Answer(body, 201 if is_new else 200, {"etag": moved.etag}, detail={"versions": body["versions"]})

    return write.run("alias.set", written_by(write.author, reference, alias), do)


@router.get("/{name:path}/aliases/{alias}", response_model=AliasObject, responses=CONDITIONAL)
def get_alias(
    name: str,
    alias: str,
    gateway: GatewayDep,
    principal: PrincipalDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """What an alias stands for."""
    reference = _adapter_of_alias(name, alias)
    with gateway.database.read() as connection:
        found = aliases.get_alias(connection, principal.tenant.id, reference, alias)
    return conditional_answer(precondition, found.etag, AliasObject.of(reference, found))


@router.delete("/{name:path}/aliases/{alias}", response_model=AliasDeleted)
def remove_alias(
    name: str,
    alias: str,
    write: WriteDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Remove an alias. Its history stays, and a rollback brings it back."""
    reference = _adapter_of_alias(name, alias)

    def do(connection: Connection) -> Answer:
        alias_changes.remove_alias(connection, write.tenant_id, reference, alias, precondition)
        return Answer(AliasDeleted(id=f"{reference}@{alias}").model_dump())

    return write.run("alias.remove", written_by(write.author, reference, alias), do)


@router.post("/{name:path}/aliases/{alias}/rollback", response_model=AliasObject)
def roll_back_alias(
    name: str,
    alias: str,
    write: WriteDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Move an alias back to what it stood for before its last move; doing it again takes that back."""
    reference = _adapter_of_alias(name, alias)

    def do(connection: Connection) -> Answer:
        moved = alias_changes.rollback_alias(connection, write.tenant_id, reference, alias, precondition)
        body = AliasObject.of(reference, moved).model_dump()
        return Answer(body, headers={"etag": moved.etag}, detail={"versions": body["versions"]})

    return write.run("alias.rollback", written_by(write.author, reference, alias), do)


@router.get("/{name:path}/aliases/{alias}/history")
def list_moves(
    name: str, alias: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[PageQuery, Query()]
) -> AliasMoveList:
    """The moves of an alias, newest first, removals too."""
    reference = _adapter_of_alias(name, alias)
    before = query.after
    if before is not None and not (before.isascii() and before.isdigit() and len(before) < 10):
        raise BadRequest(
            f"after is {quoted(before)}, expected the id of a move, such as '7'", param="after", code="invalid_value"
        )
    with gateway.database.read() as connection:
        moves, has_more = aliases.alias_moves(
            connection,
            principal.tenant.id,
            reference,
            alias,
            before=None if before is None else int(before),
            limit=query.limit,
        )
    return AliasMoveList.of(moves, has_more)


def _adapter_of_alias(name: str, alias: str) -> Reference:
    """The adapter in the path. BadRequest when that, or the alias behind it, cannot be one."""
    reference = adapter_of(name)
    check_alias(alias, "alias")
    return reference
