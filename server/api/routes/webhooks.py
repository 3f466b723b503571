"""/v1/webhook_endpoints, in OpenAI's shape: who is told when a job, a batch or a background response has ended.

The secret is in the answer that makes it, and nowhere else. It is put into that answer on its way out, so that no
stored answer to an Idempotency-Key has it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy.engine import Connection, Row
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from server.api.deps import Gateway, GatewayDep, PrincipalDep, TrainingDep, WriteDep
from server.api.own_route import OwnRoute
from server.api.schemas.pages import NoQuery, PageQuery
from server.api.schemas.webhooks import (
    EventTypeList,
    SecretRotation,
    WebhookChange,
    WebhookCreate,
    WebhookDeleted,
    WebhookList,
    WebhookObject,
    WebhookTest,
    WebhookTestResult,
    WebhookWithSecret,
)
from server.api.writes import Answer
from server.core.errors import BadRequest
from server.core.idempotency import REPLAYED_HEADER
from server.endpoints.endpoint_client import EndpointFailed
from server.endpoints.guarded_network import NotAllowed
from server.endpoints.webhooks import (
    EVENT_TYPES,
    create_endpoint,
    delete_endpoint,
    endpoint_answered,
    get_endpoint,
    list_endpoints,
    new_event,
    rotate_secret,
    update_endpoint,
)

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=OwnRoute)
ENDPOINTS = "/webhook_endpoints"


@router.get("/webhook_event_types")
def event_types(_query: Annotated[NoQuery, Query()]) -> EventTypeList:
    """What endpoints can be told of."""
    return EventTypeList(data=list(EVENT_TYPES))


@router.post(ENDPOINTS, response_model=WebhookWithSecret)
def create_webhook(
    body: WebhookCreate, gateway: GatewayDep, write: WriteDep, _query: Annotated[NoQuery, Query()]
) -> Response:
    """Have an endpoint told of events. The secret that signs them is in this answer alone."""
    _check(gateway, body.url)

    def do(connection: Connection) -> Answer:
        row = create_endpoint(
            connection,
            write.tenant_id,
            name=body.name,
            url=body.url,
            event_types=body.event_types,
            secret=gateway.webhooks.secrets.new(),
        )
        return Answer(WebhookObject.of(row, gateway.webhooks.secrets).model_dump(), detail={"endpoint": row.id})

    return _with_secret(gateway, write.tenant_id, write.run("webhook.create", body.name, do))


@router.get(ENDPOINTS)
def list_webhooks(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[PageQuery, Query()]) -> WebhookList:
    """The tenant's endpoints, newest first."""
    with gateway.database.read() as connection:
        rows, has_more = list_endpoints(connection, principal.tenant.id, query.after, query.limit)
    return WebhookList.page([WebhookObject.of(row, gateway.webhooks.secrets) for row in rows], has_more)


@router.get(f"{ENDPOINTS}/{{webhook_endpoint_id}}")
def retrieve_webhook(
    webhook_endpoint_id: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> WebhookObject:
    """One endpoint."""
    with gateway.database.read() as connection:
        row = get_endpoint(connection, principal.tenant.id, webhook_endpoint_id)
    return WebhookObject.of(row, gateway.webhooks.secrets)


@router.post(f"{ENDPOINTS}/{{webhook_endpoint_id}}", response_model=WebhookObject)
def update_webhook(
    webhook_endpoint_id: str,
    body: WebhookChange,
    gateway: GatewayDep,
    write: WriteDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Change name, URL or events of an endpoint; what is left out stays."""
    values = body.model_dump(exclude_unset=True)
    if "url" in values:
        _check(gateway, body.url)
    if "event_types" in values:
        values["event_types"] = json.dumps(body.event_types)

    def do(connection: Connection) -> Answer:
        row = update_endpoint(connection, write.tenant_id, webhook_endpoint_id, **values)
        return Answer(WebhookObject.of(row, gateway.webhooks.secrets).model_dump())

    return write.run("webhook.update", webhook_endpoint_id, do)


@router.delete(f"{ENDPOINTS}/{{webhook_endpoint_id}}", response_model=WebhookDeleted)
def delete_webhook(webhook_endpoint_id: str, write: WriteDep, _query: Annotated[NoQuery, Query()]) -> Response:
    """Delete an endpoint; what it was not told yet it will not be."""

    def do(connection: Connection) -> Answer:
        delete_endpoint(connection, write.tenant_id, webhook_endpoint_id)
        return Answer(WebhookDeleted(id=webhook_endpoint_id).model_dump())

    return write.run("webhook.delete", webhook_endpoint_id, do)


@router.post(f"{ENDPOINTS}/{{webhook_endpoint_id}}/rotate_secret", response_model=WebhookWithSecret)
def rotate_webhook_secret(
    webhook_endpoint_id: str,
    gateway: GatewayDep,
    write: WriteDep,
    _query: Annotated[NoQuery, Query()],
    body: SecretRotation | None = None,
) -> Response:
    """Give an endpoint another secret, which is in this answer alone."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours

    def do(connection: Connection) -> Answer:
        secret = gateway.webhooks.secrets.new()
        row = rotate_secret(connection, write.tenant_id, webhook_endpoint_id, secret, keep_old=keep_old)
        return Answer(WebhookObject.of(row, gateway.webhooks.secrets).model_dump())

    return _with_secret(gateway, write.tenant_id, write.run("webhook.rotate_secret", webhook_endpoint_id, do))


@router.post(
    f"{ENDPOINTS}/{{webhook_endpoint_id}}/test",
    responses={429: {"description": "Too many trials, of webhooks and graders; Retry-After says for how long."}},
)
async def test_webhook(
    webhook_endpoint_id: str,
    body: WebhookTest,
    gateway: GatewayDep,
    training: TrainingDep,
    principal: PrincipalDep,
    _query: Annotated[NoQuery, Query()],
) -> WebhookTestResult:
    """Tell an endpoint of an event that never was, once, and say what it answers; with 2xx it is told what waits."""

    def read() -> Row[Any]:
        with gateway.database.read() as connection:
            return get_endpoint(connection, principal.tenant.id, webhook_endpoint_id)

    event_id, event = new_event(body.event_type, "test")
    try:
        async with training.grader_runs.counted(principal):  # so that no tenant takes all connections
            row = await run_in_threadpool(read)
            status = await gateway.webhooks.send(row, event_id, event)
    except EndpointFailed as error:
        raise BadRequest(f"The event was not delivered: {error}.", code="webhook_not_delivered") from error
    if 200 <= status < 300:
        tenant_id = principal.tenant.id
        await run_in_threadpool(
            gateway.database.transact,
            lambda connection: endpoint_answered(connection, tenant_id, webhook_endpoint_id),
        )
    return WebhookTestResult(webhook_endpoint_id=row.id, event_type=body.event_type, status_code=status)


def _check(gateway: Gateway, url: str) -> None:
    try:
        gateway.webhooks.check(url)
    except NotAllowed as error:
        raise BadRequest(f"url: {error}", param="url", code="endpoint_not_allowed") from error


def _with_secret(gateway: Gateway, tenant_id: int, answer: JSONResponse) -> JSONResponse:
    """`answer`, an endpoint, with its secret as it is now."""
    made = json.loads(bytes(answer.body))
    with gateway.database.read() as connection:
        row = get_endpoint(connection, tenant_id, made["id"])
    made["signing_secret"] = gateway.webhooks.secrets.secret(row)
    shown = JSONResponse(made, headers={"cache-control": "no-store"})
    if REPLAYED_HEADER in answer.headers:
        shown.headers[REPLAYED_HEADER] = answer.headers[REPLAYED_HEADER]
    return shown
