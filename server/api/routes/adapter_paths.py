"""What routes below /v1/adapters share: the adapter in the path, and what the headers ask for.

It has no routes of its own.
"""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from server.api.bodies.adapter_upload import SAFETENSORS
from server.api.writes import Author
from server.core.errors import BadRequest, quoted
from server.core.names import Reference, parse_reference
from server.registry.etags import Precondition


def adapter_of(name: str) -> Reference:
    """The adapter that a path names. BadRequest when it names a version or an alias of it."""
    reference = parse_reference(name, "name")
    if reference.version is not None or reference.alias is not None:
        raise BadRequest(
            f"name is {quoted(name)}, expected it without a version or alias", param="name", code="invalid_name"
        )
    return reference


def written_by(author: Author, reference: Reference, alias: str | None = None) -> str:
    """How the audit log calls what is written, whatever the path called it: so one search finds all that was done to
    an adapter, and the name fits its column."""
    own = reference.seen_by(author.principal.tenant.name)
    return str(own) if alias is None else f"{own}@{alias}"


def conditional_answer(precondition: Precondition, etag: str, body: BaseModel) -> Response:
    """`body` with its ETag, or 304 when the client has it. PreconditionFailed when If-Match names another one."""
    headers = {"etag": etag}
    if precondition.not_modified(etag):
        return Response(status_code=304, headers=headers)
    return JSONResponse(body.model_dump(), headers=headers)


def accepts_safetensors(request: Request) -> bool:
    """Whether the client asks for a safetensors file."""
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")}
    return not accepted.isdisjoint(SAFETENSORS)
