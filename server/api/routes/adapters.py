"""/v1/adapters: upload, list, look up, download, delete and restore adapters. (/adapters is the same.)

A version never changes: what is uploaded under a name that exists becomes its next version, and everything about a
version can be cached by its ETag.

Bodies are read in bodies/adapter_upload.py; aliases have routes of their own.
"""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool

from adapters.vector.errors import AdapterError
from server.api.bodies.adapter_upload import RAW, SAFETENSORS, body_format, read_upload
from server.api.deps import CONDITIONAL, AuthorDep, Gateway, GatewayDep, PreconditionDep, PrincipalDep, WriteDep
from server.api.own_route import OwnRoute
from server.api.routes.adapter_docs import SEARCH_DOCS, UPLOAD_DOCS
from server.api.routes.adapter_paths import accepts_safetensors, adapter_of, conditional_answer, written_by
from server.api.schemas.adapters import (
    AdapterChange,
    AdapterDeleted,
    AdapterList,
    AdapterObject,
    DeleteQuery,
    ListQuery,
    VectorQuery,
    VersionsQuery,
)
from server.api.schemas.pages import NoQuery
from server.api.writes import Answer, Author, fingerprint_of
from server.core.errors import ApiError, BadRequest, quoted
from server.core.names import check_new_name, parse_reference
from server.core.paths import ADAPTERS_PREFIX
from server.registry.creation import NewVersion, create_versions
from server.registry.deletion import delete, purge, restore
from server.registry.etags import Precondition, revision_etag, version_etag
from server.registry.rows import entry_at, set_public

router = APIRouter(prefix=ADAPTERS_PREFIX, tags=["adapters"], route_class=OwnRoute)


@router.post("", status_code=201, response_model=AdapterObject, openapi_extra=UPLOAD_DOCS)
async def upload_adapter(
    request: Request, gateway: GatewayDep, author: AuthorDep, precondition: PreconditionDep
) -> Response:
    """Store an adapter as the next version of its name; with `If-None-Match: *` only if there is none of that name."""
    form = body_format(request)
    with gateway.metrics.upload_seconds.time():
        return await _upload(form, request, gateway, author, precondition)


async def _upload(
    form: str, request: Request, gateway: Gateway, author: Author, precondition: Precondition
) -> Response:
    try:
        upload = await read_upload(form, request, gateway.engine.factors, gateway.settings.max_upload_bytes)
        name = check_new_name(upload.name, gateway.engine.base_models)
    except (ApiError, AdapterError):
        gateway.metrics.observe_upload(form, stored=False)
        raise

    def do(connection: Connection) -> Answer:
        items = [NewVersion(name, upload.adapter, upload.metadata)]
        [entry] = create_versions(gateway.database, connection, author.principal.tenant.id, items, precondition)
        body, etag = AdapterObject.of(entry).model_dump(), revision_etag(entry.revision)
        return Answer(body, 201, {"etag": etag}, detail={"version": entry.stored.version})

    # Of the content, not of its bytes: a form has other bytes every time it is sent.
    content = json.dumps([name, upload.adapter.digest, dict(upload.metadata)], sort_keys=True)
    fingerprint = fingerprint_of(request, content.encode())
    answer = await run_in_threadpool(gateway.writes.run, author, "adapter.create", name, do, fingerprint=fingerprint)
    gateway.metrics.observe_upload(form, stored=True)
    return answer.response()


@router.get("", openapi_extra=SEARCH_DOCS)
def list_adapters(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[ListQuery, Query()]) -> AdapterList:
    """The latest version of every adapter, by name; or those of all tenants that are public."""
    after = None if query.after is None else parse_reference(query.after, "after")
    metadata = query.metadata()
    if query.public:
        if after is not None and after.tenant is None:
            raise BadRequest(
                f"after is {quoted(query.after)}, expected an id such as '~acme/math@3'",
                param="after",
                code="invalid_value",
            )
        behind = None if after is None else (after.tenant or "", after.name)
        page = gateway.registry.list_public(after=behind, limit=query.limit, prefix=query.prefix, metadata=metadata)
    else:
        page = gateway.registry.list(
            principal.tenant.id,
            after="" if after is None else after.name,
            limit=query.limit,
            prefix=query.prefix,
            metadata=metadata,
        )
    return AdapterList.of(page.items, page.has_more)


@router.get("/{name:path}/versions")
def list_versions(
    name: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[VersionsQuery, Query()]
) -> AdapterList:
    """The versions of one adapter, newest first; or those that are deleted."""
    reference = adapter_of(name)
    before = None
    if query.after is not None:
        after = parse_reference(query.after, "after")
        if after.qualified_name != reference.qualified_name or after.version is None:
            raise BadRequest(
                f"after is {quoted(query.after)}, expected an id such as '{reference}@3'",
                param="after",
                code="invalid_value",
            )
        before = after.version
    page = gateway.registry.versions(
        principal.tenant.id, reference, before=before, limit=query.limit, deleted=query.deleted
    )
    return AdapterList.of(page.items, page.has_more)


@router.get(
    "/{name:path}/vector",
    response_class=Response,
    responses={200: {"content": {RAW: {}, SAFETENSORS[0]: {}}}, **CONDITIONAL},
)
async def download_vector(
    name: str,
    request: Request,
    gateway: GatewayDep,
    principal: PrincipalDep,
    precondition: PreconditionDep,
    query: Annotated[VectorQuery, Query()],
) -> Response:
    """The bytes of a vector, with its dtype and recipe in headers; or a safetensors file with all of them."""
    stored = await gateway.registry.resolve(principal.tenant.id, parse_reference(name, "name"))
    adapter = stored.adapter
    as_file = query.format == "safetensors" or (query.format is None and accepts_safetensors(request))
    etag = f'"{adapter.digest}{"-safetensors" if as_file else ""}"'
    headers = {
        "etag": etag,
        "vary": "accept",
        "x-tinylora-adapter": stored.id,
        "x-tinylora-dtype": adapter.dtype,
        "x-tinylora-recipe": adapter.recipe.canonical_json(),
        "x-tinylora-factors": adapter.factors,
    }
    if precondition.not_modified(etag):
        return Response(status_code=304, headers=headers)
    if as_file:
        return Response(adapter.to_safetensors(), media_type=SAFETENSORS[0], headers=headers)
    return Response(adapter.data, media_type=RAW, headers=headers)


@router.post("/{name:path}/restore", response_model=AdapterObject)
def restore_adapter(
    name: str,
    write: WriteDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Take back the deletion of a version; or what the last deletion of a deleted adapter took, aliases too.

    The answer is the version restored, or the latest of them.
    """
    reference = parse_reference(name, "name")

    def do(connection: Connection) -> Answer:
        versions = restore(connection, write.tenant_id, reference)
        entry = entry_at(connection, write.tenant_id, reference, versions[-1])
        return Answer(AdapterObject.of(entry).model_dump(), detail={"versions": versions})

    return write.run("adapter.restore", written_by(write.author, reference), do)


@router.get("/{name:path}", response_model=AdapterObject, responses=CONDITIONAL)
async def get_adapter(
    name: str,
    gateway: GatewayDep,
    principal: PrincipalDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """An adapter: its latest version, or `name@version`, or what `name@alias` stands for (most, if for several)."""
    reference = parse_reference(name, "name")
    entry, _ = await gateway.registry.look_up(principal.tenant.id, reference)
    etag = revision_etag(entry.revision) if reference.version is None else version_etag(entry)
    return conditional_answer(precondition, etag, AdapterObject.of(entry))


@router.patch("/{name:path}", response_model=AdapterObject)
def change_adapter(
    name: str,
    change: AdapterChange,
    write: WriteDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Let other tenants use an adapter, all of its versions, or no longer."""
    reference = adapter_of(name)

    def do(connection: Connection) -> Answer:
        version = set_public(connection, write.tenant_id, reference, change.public, precondition)
        entry = entry_at(connection, write.tenant_id, reference, version)
        return Answer(AdapterObject.of(entry).model_dump(), headers={"etag": revision_etag(entry.revision)})

    return write.run("adapter.update", written_by(write.author, reference), do, change.model_dump())


@router.delete("/{name:path}", response_model=AdapterDeleted)
def delete_adapter(
    name: str,
    write: WriteDep,
    precondition: PreconditionDep,
    query: Annotated[DeleteQuery, Query()],
) -> Response:
    """Delete an adapter with all of its versions, or one version of it; until it is purged it can be restored."""
    reference = parse_reference(name, "name")

    def do(connection: Connection) -> Answer:
        remove = purge if query.purge else delete
        versions = remove(connection, write.tenant_id, reference, precondition)
        body = AdapterDeleted(id=str(reference), versions=versions, purged=query.purge)
        return Answer(body.model_dump(), detail={"versions": versions})

    action = "adapter.purge" if query.purge else "adapter.delete"
    return write.run(action, written_by(write.author, reference), do)
