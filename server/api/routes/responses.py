"""/v1/responses/{response_id}, in OpenAI's shape: fetch, stream, delete and cancel a stored response, list its input.

Responses are made by POST /v1/responses, which is the engine's (`server.inference.responses`); here is what is done
with those that are stored. GET /v1/responses lists them, which OpenAI's API does not. One of another tenant is answered
like one that never was.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from server.api.deps import GatewayDep, PrincipalDep
from server.api.middleware.proxy_headers import EVENT_STREAM
from server.api.own_route import OwnRoute
from server.api.schemas.pages import NoQuery
from server.api.schemas.responses import (
    ItemList,
    ItemObject,
    ItemsQuery,
    ResponseDeleted,
    ResponseList,
    ResponseObject,
    ResponseQuery,
    ResponsesQuery,
    ResponseSummary,
)
from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH
from server.inference.responses.input_items import listed
from server.inference.responses.listing import list_responses
from server.inference.responses.rows import get_response, response_of

router = APIRouter(prefix=RESPONSES_PATH, tags=["responses"], route_class=OwnRoute)


@router.get("")
def list_all(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[ResponsesQuery, Query()]) -> ResponseList:
    """The tenant's stored responses, newest first unless asked for otherwise."""
    with gateway.database.read() as connection:
        rows, has_more = list_responses(connection, principal.tenant.id, **query.model_dump())
    return ResponseList.page([ResponseSummary.of(row) for row in rows], has_more)


@router.get("/{response_id}", response_model=ResponseObject, responses={200: {"content": {EVENT_STREAM: {}}}})
async def retrieve_response(
    response_id: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[ResponseQuery, Query()]
) -> Any:
    """A response as it is now, or its stream from any event on."""
    tenant_id = principal.tenant.id
    if query.stream:
        after = query.starting_after
        return await gateway.responses.stream(tenant_id, response_id, 0 if after is None else after + 1)
    if query.starting_after is not None:
        raise BadRequest(
            "starting_after says where a stream goes on; send stream=true with it.",
            param="starting_after",
            code="invalid_value",
        )

    def read() -> ResponseObject:
        with gateway.database.read() as connection:
            return ResponseObject(**response_of(get_response(connection, tenant_id, response_id)))

    return await run_in_threadpool(read)


@router.delete("/{response_id}")
async def delete_response(
    response_id: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> ResponseDeleted:
    """Delete a response for good. One that runs in the background ends; those that went on from this one stay."""
    await run_in_threadpool(gateway.responses.store.delete, principal.tenant.id, response_id)
    gateway.responses.left(response_id)
    return ResponseDeleted(id=response_id)


@router.post("/{response_id}/cancel")
async def cancel_response(
    response_id: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> ResponseObject:
    """End a response that runs in the background; the response, whether it ran or had ended."""
    response = await run_in_threadpool(gateway.responses.store.cancel, principal.tenant.id, response_id)
    gateway.responses.left(response_id)
    return ResponseObject(**response)


@router.get("/{response_id}/input_items")
def list_input_items(
    response_id: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[ItemsQuery, Query()]
) -> ItemList:
    """What the response was asked, the turns before it included."""
    with gateway.database.read() as connection:
        row = get_response(connection, principal.tenant.id, response_id)
    items = json.loads(row.input)
    if query.order == "desc":
        items.reverse()
    begin = 0
    if query.after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == query.after]
        if not places:
            raise BadRequest(
                f"after is {quoted(query.after)}, which is no item of the input of {response_id}",
                param="after",
                code="invalid_value",
            )
        begin = places[0] + 1
    page = items[begin : begin + query.limit]
    return ItemList(
        data=[ItemObject(**listed(item)) for item in page],
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=begin + query.limit < len(items),
    )
