"""/v1/models: the base models and the tenant's own adapters, since either may be given as `model`.

Design decision: OpenAI's listing has no pages, so it ends after a fixed number of adapters and says so; /v1/adapters
lists all of them.
"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query

from server.adapter_field import model_not_found
from server.errors import BadRequest, NotFound
from server.gateway import Gateway, GatewayDep
from server.names import parse_reference
from server.principal import PrincipalDep
from server.routes.own_route import OwnRoute
from server.schemas import ModelList, ModelObject, NoQuery
from server.stored_version import Description, StoredVersion

MAX_LISTED_ADAPTERS = 1000
STARTED_AT = int(time.time())
router = APIRouter(prefix="/v1/models", tags=["models"], route_class=OwnRoute)


@router.get("")
def list_models(gateway: GatewayDep, principal: PrincipalDep) -> ModelList:
    """The base models, then the adapters by name."""
    page = gateway.registry.list(principal.tenant.id, limit=MAX_LISTED_ADAPTERS)
    base = [_base(name, gateway) for name in gateway.engine.base_models]
    adapters = [_adapter(item.stored, item.stored.name, gateway) for item in page.items]
    return ModelList(data=base + adapters, has_more=page.has_more)


@router.get("/{model:path}")
async def get_model(
    model: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> ModelObject:
    """A base model, or an adapter by name, `name@version` or `name@alias`."""
    if model in gateway.engine.base_models:
        return _base(model, gateway)
    try:
        stored = await gateway.registry.resolve(principal.tenant.id, parse_reference(model, "model"))
    except (BadRequest, NotFound) as error:
        raise model_not_found(model, gateway.engine.base_models) from error
    return _adapter(stored, model, gateway)


def _base(name: str, gateway: Gateway) -> ModelObject:
    return ModelObject(id=name, created=STARTED_AT, root=name, parent=None, max_model_len=gateway.engine.max_model_len)


def _adapter(stored: StoredVersion | Description, model: str, gateway: Gateway) -> ModelObject:
    return ModelObject(
        id=model,
        created=stored.created_at,
        root=stored.id,
        parent=gateway.engine.base_models[0],
        max_model_len=gateway.engine.max_model_len,
    )
