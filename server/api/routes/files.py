"""/v1/files, in OpenAI's shape: upload, list, look up, download and delete a tenant's files.

A file's id is given out when its bytes are durable and its row is committed, so a file is "processed" from the first
moment. Whether it can be trained on is found out by a job.
"""

from __future__ import annotations

import json
from typing import Annotated, get_args
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from server.api.bodies.file_upload import FileUpload, Purpose, form_docs, read_file_upload
from server.api.deps import (
    CONDITIONAL,
    AuthorDep,
    Gateway,
    GatewayDep,
    PreconditionDep,
    PrincipalDep,
    Training,
    TrainingDep,
)
from server.api.own_route import OwnRoute
from server.api.schemas.files import FileDeleted, FileList, FileObject, FilesQuery
from server.api.schemas.pages import NoQuery
from server.api.writes import Answer, Author, fingerprint_of
from server.core.clock import now
from server.core.ids import new_id
from server.db.tenant_lock import lock_tenant
from server.training.files.rows import PREFIX as ID_PREFIX
from server.training.files.rows import check_room, delete_file, get_file, insert_file, list_files, location_of

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OwnRoute)

_UPLOAD_DOCS = form_docs(
    required=["purpose", "file"],
    properties={
        "purpose": {"type": "string", "enum": list(get_args(Purpose))},
        "file": {"type": "string", "format": "binary"},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
)


@router.post("", response_model=FileObject, openapi_extra=_UPLOAD_DOCS)
async def upload_file(
    request: Request,
    gateway: GatewayDep,
    training: TrainingDep,
    author: AuthorDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Store a file."""
    # Before it is read; what it adds is looked at again when it is stored.
    await run_in_threadpool(_check_before, gateway, author.principal.tenant.id)
    async with read_file_upload(request, gateway.settings.max_file_bytes) as upload:
        answer = await run_in_threadpool(_store, upload, request, gateway, training, author)
    return answer.response()


def _store(upload: FileUpload, request: Request, gateway: Gateway, training: Training, author: Author) -> Answer:
    tenant_id = author.principal.tenant.id
    file_id = new_id(ID_PREFIX)
    location = location_of(tenant_id, file_id)
    stored = training.files.write(upload.source, location)
    created_at = now()
    expiry = upload.fields.expires_after

    def do(connection: Connection) -> Answer:
        # One after the other, so that no two take the last place.
        lock_tenant(connection, tenant_id)
        _check_room(connection, gateway, tenant_id, stored.size)
        row = insert_file(
            connection,
            id=file_id,
            tenant_id=tenant_id,
            purpose=upload.fields.purpose,
            filename=upload.filename,
            bytes=stored.size,
            sha256=stored.sha256,
            location=location,
            created_at=created_at,
            expires_at=None if expiry is None else created_at + expiry.seconds,
        )
        return Answer(FileObject.of(row).model_dump(), detail={"file": file_id, "bytes": stored.size})

    # Of the content, not of its bytes: a form has other bytes every time it is sent.
    content = json.dumps([upload.filename, stored.sha256, upload.fields.model_dump()])
    fingerprint = fingerprint_of(request, content.encode())
    with training.files.deleted_if_refused(location):
        answer = gateway.writes.run(author, "file.create", upload.filename, do, fingerprint=fingerprint)
    if answer.body["id"] != file_id:
        training.files.delete(location)
    return answer


def _check_before(gateway: Gateway, tenant_id: int) -> None:
    with gateway.database.read() as connection:
        _check_room(connection, gateway, tenant_id, 1)


def _check_room(connection: Connection, gateway: Gateway, tenant_id: int, size: int) -> None:
    settings = gateway.settings
    check_room(
        connection,
        tenant_id,
        size,
        most_files=settings.max_tenant_files,
        most_bytes=settings.max_tenant_file_bytes,
    )


@router.get("")
def list_all(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[FilesQuery, Query()]) -> FileList:
    """The tenant's files, newest first unless asked for otherwise."""
    with gateway.database.read() as connection:
        page = list_files(
            connection,
            principal.tenant.id,
            after=query.after,
            limit=query.limit,
            purpose=query.purpose,
            order=query.order,
        )
    data = [FileObject.of(row) for row in page.rows]
    return FileList.page(data, page.has_more)


@router.get("/{file_id}")
def retrieve_file(
    file_id: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> FileObject:
    """One file."""
    with gateway.database.read() as connection:
        return FileObject.of(get_file(connection, principal.tenant.id, file_id))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **CONDITIONAL},
)
def download_file(
    file_id: str,
    gateway: GatewayDep,
    training: TrainingDep,
    principal: PrincipalDep,
    precondition: PreconditionDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """The bytes of a file."""
    with gateway.database.read() as connection:
        row = get_file(connection, principal.tenant.id, file_id)
    etag = f'"{row.sha256}"'
    if precondition.not_modified(etag):
        return Response(status_code=304, headers={"etag": etag})
    headers = {
        "content-length": str(row.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}",
        "etag": etag,
    }
    return StreamingResponse(training.files.read(row.location), media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}", response_model=FileDeleted)
def delete_one(
    file_id: str,
    gateway: GatewayDep,
    training: TrainingDep,
    author: AuthorDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete a file for good, unless a job that has not finished uses it."""
    locations: list[str] = []

    def do(connection: Connection) -> Answer:
        locations[:] = [delete_file(connection, author.principal.tenant.id, file_id).location]
        return Answer(FileDeleted(id=file_id).model_dump())

    answer = gateway.writes.run(author, "file.delete", file_id, do)
    for location in locations:
        training.files.delete(location)
    return answer.response()
