"""/v1/models: the base models and the tenant's own adapters, since either may be given as `model`.

OpenAI's listing has no pages, and clients ask for none, so a page is as long as may be; `after` (Anthropic's
`after_id`) gives the rest where `has_more` says so, and `before_id` what comes before. Adapters can be deleted as
models, which is OpenAI's way for fine-tuned ones.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.engine import Connection

from server.api.deps import Gateway, GatewayDep, PreconditionDep, PrincipalDep, WriteDep
from server.api.own_route import OwnRoute
from server.api.routes.adapter_paths import written_by
from server.api.schemas.models import ModelDeleted, ModelList, ModelObject, ModelQuery, ModelsQuery
from server.api.writes import Answer
from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.names import parse_reference
from server.inference.adapter_field import model_not_found
from server.registry.deletion import delete
from server.registry.versions import Description, Page, StoredVersion

STARTED_AT = now()
router = APIRouter(prefix="/v1/models", tags=["models"], route_class=OwnRoute)


@router.get("")
def list_models(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[ModelsQuery, Query()]) -> ModelList:
    """The base models, then the adapters by name."""
    if query.before_id is not None:
        return _before(query, gateway, principal.tenant.id)
    base, after = list(gateway.engine.base_models), ""
    last = query.after if query.after_id is None else query.after_id
    if last in base:
        base = base[base.index(last) + 1 :]
    elif last is not None:
        base, after = [], parse_reference(last, "after" if query.after_id is None else "after_id").name
    models = [_base(name, gateway) for name in base[: query.limit]]
    # One adapter at least, to know whether there are more.
    room = query.limit - len(models)
    page = gateway.registry.list(principal.tenant.id, after=after, limit=max(room, 1))
    models += [_adapter(item.stored, item.stored.name, gateway) for item in page.items[:room]]
    has_more = len(base) > query.limit or page.has_more or len(page.items) > room
    return ModelList.page(models, has_more)


@router.get("/{model:path}")
async def get_model(
    model: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[ModelQuery, Query()]
) -> ModelObject:
    """A base model, or an adapter by name, `name@version` or `name@alias`."""
    if model in gateway.engine.base_models:
        return _base(model, gateway)
    try:
        stored = await gateway.registry.resolve(principal.tenant.id, parse_reference(model, "model"))
    except (BadRequest, NotFound) as error:
        raise model_not_found(model, gateway.engine.base_models) from error
    return _adapter(stored, model, gateway)


@router.delete("/{model:path}", response_model=ModelDeleted)
def delete_model(
    model: str,
    gateway: GatewayDep,
    write: WriteDep,
    precondition: PreconditionDep,
    _query: Annotated[ModelQuery, Query()],
) -> Response:
    """Delete an adapter, or one version of it, as DELETE /v1/adapters does: it can be restored there."""
    if model in gateway.engine.base_models:
        raise BadRequest(
            f"The model {quoted(model)} is the base model, which every adapter runs on and nobody can delete; only "
            "adapters can be deleted.",
            param="model",
            code="base_model",
        )
    try:
        reference = parse_reference(model, "model")
    except BadRequest as error:
        raise model_not_found(model, gateway.engine.base_models) from error

    def do(connection: Connection) -> Answer:
        versions = delete(connection, write.tenant_id, reference, precondition)
        return Answer(ModelDeleted(id=model).model_dump(), detail={"versions": versions})

    return write.run("adapter.delete", written_by(write.author, reference), do)


def _before(query: ModelsQuery, gateway: Gateway, tenant_id: int) -> ModelList:
    """The models just before the one called `before_id`; `has_more` is of those before them."""
    if query.after is not None or query.after_id is not None:
        raise BadRequest(
            "the query has before_id and where a page begins; leave out one of them",
            param="before_id",
            code="invalid_value",
        )
    last, base = str(query.before_id), list(gateway.engine.base_models)
    if last in base:
        base, page = base[: base.index(last)], Page((), has_more=False)
    else:
        before = parse_reference(last, "before_id").name
        page = gateway.registry.list(tenant_id, before=before, limit=query.limit)
    room = query.limit - len(page.items)
    models = [_base(name, gateway) for name in base[max(len(base) - room, 0) :]]
    models += [_adapter(item.stored, item.stored.name, gateway) for item in page.items]
    return ModelList.page(models, page.has_more or len(base) > room)


def _base(name: str, gateway: Gateway) -> ModelObject:
    engine = gateway.engine
    return ModelObject.of(
        name, STARTED_AT, root=name, parent=None, max_model_len=engine.max_model_len, factors=engine.factors
    )


def _adapter(stored: StoredVersion | Description, model: str, gateway: Gateway) -> ModelObject:
    return ModelObject.of(
        model,
        stored.created_at,
        root=stored.id,
        parent=gateway.engine.base_models[0],
        max_model_len=gateway.engine.max_model_len,
    )
