"""/v1/batches, in OpenAI's shape: make, list, look up and cancel batches of requests.

Any gateway takes them; which one runs a batch is settled by a lease (server/batches).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool

from server.api.bodies.json_body import json_of, parsed
from server.api.deps import AuthorDep, GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.batches import BatchCreate, BatchList, BatchObject
from server.api.schemas.pages import NoQuery, PageQuery
from server.api.writes import Answer, fingerprint_of
from server.batches.rows import NewBatch, cancel_batch, create_batch, get_batch, list_batches
from server.batches.runner import BatchRunner
from server.core.request_body import MAX_JSON_BYTES, read_json

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=OwnRoute)


def _runner(request: Request) -> BatchRunner:
    runner: BatchRunner = request.app.state.batches
    return runner


@router.post("", response_model=BatchObject, openapi_extra=json_of(BatchCreate))
async def create(
    request: Request, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]
) -> Response:
    """Make a batch of the requests in a file. They are answered when nobody else asks, within 24 hours."""
    sent = await read_json(request.headers, request.receive, MAX_JSON_BYTES)
    body = await parsed(sent, BatchCreate)
    expiry = body.output_expires_after
    new = NewBatch(body.endpoint, body.input_file_id, body.metadata, None if expiry is None else expiry.seconds)
    principal, most = author.principal, gateway.settings.max_tenant_batches

    def do(connection: Connection) -> Answer:
        row = create_batch(connection, principal.tenant.id, principal.key_id, new, most)
        shown = BatchObject.of(row).model_dump()
        return Answer(shown, detail={"batch": row.id, "input_file": row.input_file_id})

    fingerprint = fingerprint_of(request, sent)
    # Of no batch in particular: the same request again comes with another id.
    answer = await run_in_threadpool(gateway.writes.run, author, "batch.create", "", do, fingerprint=fingerprint)
    _runner(request).look(str(answer.body["id"]))
    return answer.response()


@router.get("")
def list_all(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[PageQuery, Query()]) -> BatchList:
    """The tenant's batches, newest first."""
    with gateway.database.read() as connection:
        rows, has_more = list_batches(connection, principal.tenant.id, after=query.after, limit=query.limit)
    return BatchList.page([BatchObject.of(row) for row in rows], has_more)


@router.get("/{batch_id}")
def retrieve(
    batch_id: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> BatchObject:
    """One batch, with its counts up to the last second."""
    with gateway.database.read() as connection:
        return BatchObject.of(get_batch(connection, principal.tenant.id, batch_id))


@router.post("/{batch_id}/cancel", response_model=BatchObject)
def cancel(
    batch_id: str, request: Request, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]
) -> Any:
    """Have a batch end. What it has answered until then is in its output file."""

    def do(connection: Connection) -> Answer:
        return Answer(BatchObject.of(cancel_batch(connection, author.principal.tenant.id, batch_id)).model_dump())

    answer = gateway.writes.run(author, "batch.cancel", batch_id, do)
    _runner(request).look(batch_id)
    return answer.response()
