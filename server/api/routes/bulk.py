"""/v1/adapters/bulk stores many adapters from one body; /v1/adapters/export sends all that a tenant has.

Design decision: outcomes are not sent while the body is read, but spooled to disk until its end. Clients read an answer
when they have sent everything; a server that answered meanwhile would end up waiting for them, and they for it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from server.api.bodies.adapter_upload import SAFETENSORS
from server.api.bulk_import import BulkImport
from server.api.deps import AuthorDep, Gateway, GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.adapters import ExportQuery
from server.api.schemas.pages import NoQuery
from server.core.error_responses import error_object
from server.core.errors import ApiError, BadRequest, UnsupportedMediaType, quoted
from server.core.names import parse_reference
from server.core.request_body import body_chunks, media_type, read_body
from server.core.request_state import held_body
from server.registry.bulk_export import BATCH, BATCH_BYTES, export_versions
from server.registry.bulk_items import Item
from server.registry.bulk_ndjson import NDJSON, batches_of, lines_of, most_line_bytes, ndjson_line, parse_line
from server.registry.bulk_safetensors import MAX_FILE_ADAPTERS, fitting_file, parse_safetensors, safetensors_file
from server.registry.versions import StoredVersion

MAX_SPOOLED_IN_MEMORY = 2**20
PIECE_BYTES = 2**16
router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=OwnRoute)

_BULK_DOCS = {
    "requestBody": {
        "required": True,
        "content": {
            NDJSON: {"schema": {"type": "string"}},
            SAFETENSORS[0]: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    "/bulk",
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {}}, "description": "A line per adapter, then a line with the totals."}},
    openapi_extra=_BULK_DOCS,
)
async def upload_many(
    request: Request, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]
) -> StreamingResponse:
    """Store many adapters: each as the next version of its name, each with an outcome of its own.

    When a body cannot be read to its end, the totals have `complete` false and the error; what came before is stored.
    """
    bulk = BulkImport(gateway.writes, gateway.database, author)
    spool: IO[bytes] = tempfile.SpooledTemporaryFile(MAX_SPOOLED_IN_MEMORY)  # noqa: SIM115, the response closes it
    totals: dict[str, Any] = {"object": "adapter.bulk", "stored": 0, "rejected": 0, "complete": True}
    number = index = 0
    try:
        async for batch in _batches(request, gateway):
            outcomes = await run_in_threadpool(_store, bulk, number, index, batch)
            for outcome in outcomes:
                totals["stored" if "version" in outcome else "rejected"] += 1
                spool.write(json.dumps(outcome).encode() + b"\n")
            number, index = number + 1, index + len(outcomes)
    except BaseException as error:
        if not isinstance(error, ApiError) or number == 0:
            spool.close()
            raise
        totals |= {"complete": False, "error": error_object(error)}
    spool.write(json.dumps(totals).encode() + b"\n")
    spool.seek(0)
    return StreamingResponse(_drain(spool), media_type=NDJSON)


def _store(bulk: BulkImport, number: int, index: int, parse: Callable[[], list[Item]]) -> list[dict[str, Any]]:
    return bulk.store(number, index, parse())


async def _batches(request: Request, gateway: Gateway) -> AsyncIterator[Callable[[], list[Item]]]:
    """The body in batches. Each is yet to be parsed, by the thread that stores it and then forgets what it parsed."""
    kind = media_type(request.headers)
    if kind == NDJSON:
        held = held_body(request.scope)
        held.stream()
        most = most_line_bytes(gateway.engine.factors)
        chunks = body_chunks(request.headers, request.receive, gateway.settings.max_bulk_bytes, "max_bulk_bytes")
        async for lines in batches_of(lines_of(chunks, most, held.keep), most_lines=BATCH, most_bytes=BATCH_BYTES):
            yield partial(_parse_lines, lines, gateway)
    elif kind in SAFETENSORS:
        data = await read_body(request.headers, request.receive, gateway.settings.max_upload_bytes, "max_upload_bytes")
        engine = gateway.engine
        items = await run_in_threadpool(lambda: list(parse_safetensors(data, engine.factors, engine.base_models)))
        for start in range(0, len(items), BATCH):
            yield partial(list, items[start : start + BATCH])
    else:
        raise UnsupportedMediaType(
            f"The content type is {quoted(kind)}, expected {NDJSON} (an adapter per line) or {SAFETENSORS[0]}.",
            param="content-type",
        )


def _parse_lines(lines: Sequence[bytes], gateway: Gateway) -> list[Item]:
    return [parse_line(line, gateway.engine.factors, gateway.engine.base_models) for line in lines]


def _drain(spool: IO[bytes]) -> Iterator[bytes]:
    with spool:
        while chunk := spool.read(PIECE_BYTES):
            yield chunk


@router.get("/export", response_class=Response, responses={200: {"content": {NDJSON: {}, SAFETENSORS[0]: {}}}})
async def export_adapters(
    request: Request, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[ExportQuery, Query()]
) -> Response:
    """All of the tenant's adapters, by name, as NDJSON (any number) or safetensors (the latest versions, in files).

    A safetensors file that is not the last one has a Link header to the next; each is short enough to be uploaded as it
    is. Adapters that change during an export may or may not be in it as changed.
    """
    if query.format == "safetensors" and query.versions == "all":
        raise BadRequest(
            "versions is 'all' and format 'safetensors', in which a name has one version; ask for the format ndjson",
            param="versions",
            code="invalid_value",
        )
    after = "" if query.after is None else parse_reference(query.after, "after").name
    versions = export_versions(
        gateway.database,
        principal.tenant.id,
        after=after,
        prefix=query.prefix,
        all_versions=query.versions == "all",
    )
    if query.format == "ndjson":
        return StreamingResponse(_joined(map(ndjson_line, islice(versions, query.limit))), media_type=NDJSON)
    limit = min(query.limit or MAX_FILE_ADAPTERS, MAX_FILE_ADAPTERS)
    most_bytes = gateway.settings.max_upload_bytes
    # In memory until all of it is sent, which is up to the client.
    held_body(request.scope).add(most_bytes)
    file, next_after = await run_in_threadpool(_export_file, versions, limit, most_bytes)
    headers = {}
    if next_after is not None:
        # Relative to this one, whose path a proxy may have changed.
        headers["link"] = f'<export?{request.url.include_query_params(after=next_after).query}>; rel="next"'
    return Response(file, media_type=SAFETENSORS[0], headers=headers)


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """`lines` in pieces of many: what a piece costs on its way is more than what a line does."""
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _export_file(versions: Iterator[StoredVersion], limit: int, most_bytes: int) -> tuple[bytes, str | None]:
    """The file, and the name behind which the next one begins, if there is one."""
    page, more = fitting_file(versions, limit, most_bytes)
    return safetensors_file(page), page[-1].name if more else None
