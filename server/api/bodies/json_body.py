"""JSON bodies that may be long (jobs, graders, reports of workers): parsed off the event loop, described for OpenAPI.

Design decision: they are not FastAPI's body parameters, which it would check within the event loop, where every other
request waits.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from server.core.error_responses import validation_error
from server.core.errors import BadRequest
from server.core.json_text import parse_json
from server.core.off_loop import off_loop

# pydantic tells all of them or none.
MAX_FAULTS = 10_000

ModelT = TypeVar("ModelT", bound=BaseModel)


async def parsed(body: bytes, model: type[ModelT]) -> ModelT:
    """`body` as a `model`. BadRequest names the first field at fault; nothing at all is taken for null."""

    def read() -> ModelT:
        value = parse_json(body) if body else None
        try:
            return model.model_validate(value)
        except ValidationError as error:
            count = error.error_count()
            if count > MAX_FAULTS:
                raise BadRequest(
                    f"The body has {count} unknown fields or wrong values, too many to name the first. Compare it with "
                    "GET /docs.",
                    code="too_many_faults",
                ) from None
            raise validation_error(error.errors(include_url=False)) from None

    return await off_loop(len(body), read)


def json_of(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route whose body is a `model`."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
