"""/v1/uploads, in OpenAI's shape: a large file in parts, which may be sent at once, and again when one was lost."""

from __future__ import annotations

from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection, Row
from starlette.concurrency import run_in_threadpool

from server.api.bodies.file_upload import checked_filename, form_docs, read_part
from server.api.deps import AuthorDep, Gateway, GatewayDep, Training, TrainingDep
from server.api.own_route import OwnRoute
from server.api.schemas.pages import NoQuery
from server.api.schemas.uploads import UploadComplete, UploadCreate, UploadObject, UploadPart
from server.api.writes import Answer, Author, fingerprint_of
from server.core.errors import ApiError, PayloadTooLarge
from server.core.ids import new_id
from server.training.files.joined_parts import join_parts
from server.training.files.rows import PREFIX as FILE_PREFIX
from server.training.files.rows import get_file, location_of
from server.training.files.uploads import (
    MAX_PART_BYTES,
    PART_PREFIX,
    Completion,
    NewUpload,
    add_part,
    cancel_upload,
    complete_upload,
    create_upload,
    get_upload,
    ordered_parts,
    pending_upload,
)

router = APIRouter(prefix="/v1/uploads", tags=["files"], route_class=OwnRoute)

_PART_DOCS = form_docs(required=["data"], properties={"data": {"type": "string", "format": "binary"}})


def _limits(gateway: Gateway) -> dict[str, int]:
    return {
        "most_files": gateway.settings.max_tenant_files,
        "most_bytes": gateway.settings.max_tenant_file_bytes,
    }


@router.post("", response_model=UploadObject)
def create(
    body: UploadCreate, request: Request, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]
) -> Response:
    """Announce a file that comes in parts. There is an hour for them."""
    if body.bytes > (most := gateway.settings.max_file_bytes):
        raise PayloadTooLarge(
            f"bytes is {body.bytes}, expected at most {most} (the server's setting max_file_bytes).", param="bytes"
        )
    expiry = body.expires_after
    filename = checked_filename(body.filename, "filename")
    new = NewUpload(body.purpose, filename, body.bytes, None if expiry is None else expiry.seconds)

    def do(connection: Connection) -> Answer:
        row = create_upload(connection, author.principal.tenant.id, new, **_limits(gateway))
        return Answer(UploadObject.of(row).model_dump(), detail={"upload": row.id, "bytes": row.bytes})

    fingerprint = fingerprint_of(request, body.model_dump_json().encode())
    return gateway.writes.run(author, "upload.create", new.filename, do, fingerprint=fingerprint).response()


@router.post("/{upload_id}/parts", response_model=UploadPart, openapi_extra=_PART_DOCS)
async def add(
    upload_id: str,
    request: Request,
    gateway: GatewayDep,
    training: TrainingDep,
    author: AuthorDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Send a part of at most 64 MiB. Parts may come in any order, and several at once. One whose answer was lost is
    sent again, and has another id; the same one with an Idempotency-Key."""
    tenant_id = author.principal.tenant.id

    def check() -> None:
        with gateway.database.read() as connection:
            pending_upload(connection, tenant_id, upload_id)

    await run_in_threadpool(check)  # before it is read
    async with read_part(request, min(MAX_PART_BYTES, gateway.settings.max_file_bytes)) as source:
        answer = await run_in_threadpool(_store_part, upload_id, source, gateway, training, author)
    return answer.response()


def _store_part(upload_id: str, source: BinaryIO, gateway: Gateway, training: Training, author: Author) -> Answer:
    tenant_id = author.principal.tenant.id
    part_id = new_id(PART_PREFIX)
    location = location_of(tenant_id, part_id)
    stored = training.files.write(source, location)

    def do(connection: Connection) -> Answer:
        row = add_part(connection, tenant_id, upload_id, part_id, location, stored.size)
        part = UploadPart(id=row.id, created_at=row.created_at, upload_id=row.upload_id)
        return Answer(part.model_dump(), detail={"part": part_id, "bytes": stored.size})

    with training.files.deleted_if_refused(location):
        answer = gateway.writes.run(author, "upload.add_part", upload_id, do, fingerprint=stored.sha256)
    if answer.body["id"] != part_id:
        training.files.delete(location)
    return answer


@router.post("/{upload_id}/complete", response_model=UploadObject)
def complete(
    upload_id: str,
    body: UploadComplete,
    gateway: GatewayDep,
    training: TrainingDep,
    author: AuthorDep,
    _query: Annotated[NoQuery, Query()],
) -> Any:
    """Put the parts together: the upload's `file` can then be used as any other. The same request again gives the same
    answer."""
    tenant_id = author.principal.tenant.id
    completion = Completion(body.part_ids, body.md5)
    with gateway.database.read() as connection:
        done = _completed(connection, tenant_id, upload_id, completion)
        if done is not None:
            return done
        row = pending_upload(connection, tenant_id, upload_id)
        parts = ordered_parts(connection, row, completion)
    try:
        return _complete(upload_id, parts, completion, gateway, training, author).response()
    except ApiError:
        # The same request, sent at the same moment, may have been the first.
        with gateway.database.read() as connection:
            done = _completed(connection, tenant_id, upload_id, completion)
        if done is None:
            raise
        return done


def _completed(connection: Connection, tenant_id: int, upload_id: str, completion: Completion) -> UploadObject | None:
    """The upload with its file, None while it has none. BadRequest when it was completed otherwise."""
    row = get_upload(connection, tenant_id, upload_id)
    if row.status != "completed":
        return None
    completion.check_was_done(row)
    return UploadObject.of(row, get_file(connection, tenant_id, row.file_id))


def _complete(
    upload_id: str, parts: list[Row[Any]], completion: Completion, gateway: Gateway, training: Training, author: Author
) -> Answer:
    tenant_id = author.principal.tenant.id
    file_id = new_id(FILE_PREFIX)
    location = location_of(tenant_id, file_id)
    stored, md5 = join_parts(training.files, parts, location, completion.md5)
    done = {"parts_sha256": completion.parts_sha256, "md5": md5}
    file = {"id": file_id, "location": location, "bytes": stored.size, "sha256": stored.sha256}
    no_longer_used: list[str] = []

    def do(connection: Connection) -> Answer:
        row, made, no_longer_used[:] = complete_upload(connection, tenant_id, upload_id, file, done, **_limits(gateway))
        return Answer(UploadObject.of(row, made).model_dump(), detail={"file": file_id, "bytes": stored.size})

    fingerprint = f"{completion.parts_sha256} {md5}"
    with training.files.deleted_if_refused(location):
        answer = gateway.writes.run(author, "upload.complete", upload_id, do, fingerprint=fingerprint)
    if answer.body["file"]["id"] != file_id:
        training.files.delete(location)
    for part in no_longer_used:
        training.files.delete(part)
    return answer


@router.post("/{upload_id}/cancel", response_model=UploadObject)
def cancel(
    upload_id: str,
    gateway: GatewayDep,
    training: TrainingDep,
    author: AuthorDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Take no more parts, and forget those there are."""
    no_longer_used: list[str] = []

    def do(connection: Connection) -> Answer:
        row, no_longer_used[:] = cancel_upload(connection, author.principal.tenant.id, upload_id)
        return Answer(UploadObject.of(row).model_dump())

    answer = gateway.writes.run(author, "upload.cancel", upload_id, do)
    for part in no_longer_used:
        training.files.delete(part)
    return answer.response()
