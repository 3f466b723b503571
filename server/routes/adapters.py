"""/v1/adapters: upload, list, look up, download and delete adapters. (/adapters is the same, see adapters_alias.)

Design decision: a version never changes, so what is uploaded under a name that exists becomes its next version, and
everything about a version can be cached by its ETag.

Reading bodies is `server.uploads`; names and paths are `server.names`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from adapters.errors import AdapterError
from server.errors import ApiError, BadRequest, quoted
from server.gateway import GatewayDep
from server.names import Reference, check_new_name, parse_reference
from server.routes.own_route import OwnRoute
from server.schemas import AdapterDeleted, AdapterList, AdapterObject, NoQuery, PageQuery, VectorQuery
from server.uploads import RAW, SAFETENSORS, body_format, read_upload

PREFIX = "/v1/adapters"
router = APIRouter(prefix=PREFIX, tags=["adapters"], route_class=OwnRoute)

_UPLOAD_DOCS = {
    "requestBody": {
        "required": True,
        "description": (
            "The bytes of a vector, with its name (and dtype and recipe) in the query; a JSON object; or a safetensors "
            "file of PEFT TinyLoRA, LoRA-XS or this server, with its name in the query or in a form."
        ),
        "content": {
            RAW: {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["name", "vector"],
                    "properties": {
                        "name": {"type": "string"},
                        "vector": {
                            "anyOf": [{"type": "string", "format": "byte"}, {"type": "array", "items": {}}],
                        },
                        "dtype": {"enum": ["bfloat16", "float16", "float32"], "default": "bfloat16"},
                        "recipe": {"type": "object"},
                        "factors": {"type": "string"},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                },
            },
            SAFETENSORS[0]: {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "adapter_config": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "metadata": {"type": "string"},
                    },
                },
            },
        },
    },
    "parameters": [{"name": "name", "in": "query", "schema": {"type": "string"}}],
}


@router.post("", status_code=201, openapi_extra=_UPLOAD_DOCS)
async def upload_adapter(request: Request, gateway: GatewayDep) -> AdapterObject:
    """Store an adapter as the next version of its name."""
    form = body_format(request)
    try:
        upload = await read_upload(request, gateway.engine.factors, gateway.settings.max_upload_bytes)
        name = check_new_name(upload.name, gateway.engine.base_models)
    except (ApiError, AdapterError):
        gateway.metrics.observe_upload(form, stored=False)
        raise
    stored = await run_in_threadpool(gateway.registry.create, name, upload.adapter, upload.metadata)
    gateway.metrics.observe_upload(form, stored=True)
    return AdapterObject.of(stored)


@router.get("")
def list_adapters(gateway: GatewayDep, query: Annotated[PageQuery, Query()]) -> AdapterList:
    """The latest version of every adapter, by name."""
    after = "" if query.after is None else parse_reference(query.after, "after").name
    page = gateway.registry.list(after=after, limit=query.limit)
    return AdapterList.of(page.items, page.has_more)


@router.get("/{name:path}/versions")
def list_versions(name: str, gateway: GatewayDep, query: Annotated[PageQuery, Query()]) -> AdapterList:
    """The versions of one adapter, newest first."""
    reference = parse_reference(name, "name")
    after = Reference(reference.name) if query.after is None else parse_reference(query.after, "after")
    if reference.version is not None:
        raise BadRequest(f"name is {quoted(name)}, expected it without a version", param="name", code="invalid_name")
    if after.name != reference.name or (query.after is not None and after.version is None):
        raise BadRequest(
            f"after is {quoted(query.after)}, expected an id such as '{reference.name}@3'",
            param="after",
            code="invalid_value",
        )
    page = gateway.registry.versions(reference.name, before=after.version, limit=query.limit)
    return AdapterList.of(page.items, page.has_more)


@router.get(
    "/{name:path}/vector",
    response_class=Response,
    responses={
        200: {"content": {RAW: {}, SAFETENSORS[0]: {}}},
        304: {"description": "It is what If-None-Match names."},
    },
)
def download_vector(
    name: str, request: Request, gateway: GatewayDep, query: Annotated[VectorQuery, Query()]
) -> Response:
    """The bytes of a vector, with its dtype and recipe in headers; or a safetensors file with all of them."""
    stored = gateway.registry.resolve(parse_reference(name, "name"))
    adapter = stored.adapter
    as_file = query.format == "safetensors" or (query.format is None and _accepts_safetensors(request))
    etag = f'"{adapter.digest}{"-safetensors" if as_file else ""}"'
    headers = {
        "etag": etag,
        "vary": "accept",
        "x-tinylora-adapter": stored.id,
        "x-tinylora-dtype": adapter.dtype,
        "x-tinylora-recipe": adapter.recipe.canonical_json(),
        "x-tinylora-factors": adapter.factors,
    }
    if _matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    if as_file:
        return Response(adapter.to_safetensors(), media_type=SAFETENSORS[0], headers=headers)
    return Response(adapter.data, media_type=RAW, headers=headers)


@router.get("/{name:path}")
def get_adapter(name: str, gateway: GatewayDep, _query: Annotated[NoQuery, Query()]) -> AdapterObject:
    """An adapter: its latest version, or `name@version`."""
    return AdapterObject.of(gateway.registry.resolve(parse_reference(name, "name")))


@router.delete("/{name:path}")
def delete_adapter(name: str, gateway: GatewayDep, _query: Annotated[NoQuery, Query()]) -> AdapterDeleted:
    """Delete an adapter with all of its versions, or one version of it."""
    reference = parse_reference(name, "name")
    gateway.registry.delete(reference)
    return AdapterDeleted(id=str(reference))


def _accepts_safetensors(request: Request) -> bool:
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")}
    return not accepted.isdisjoint(SAFETENSORS)


def _matches(if_none_match: str, etag: str) -> bool:
    candidates = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return etag in candidates or "*" in candidates
