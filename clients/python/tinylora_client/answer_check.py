"""Whether an answer can be what was asked for: at a wrong address another server may answer anything, with status 200.

Design decision: not openai's strict validation. It refuses what this server adds, such as a job that is "paused".
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openai import APIResponseValidationError, OpenAIError
from openai.types import Model
from pydantic import BaseModel

# Of openai, on requests whose answer the caller reads by itself.
RAW_HEADER = "x-stainless-raw-response"


@contextmanager
def reading(*, response: Any, cast_to: Any, stream: bool, **_: Any) -> Iterator[None]:
    """Within, `response` is read. Raises APIResponseValidationError when it is not JSON, or not an event stream, where
    it should be. The arguments are those of the client's `_process_response`."""
    found = response.headers.get("content-type", "").partition(";")[0].strip()
    is_json = cast_to is object or _is_model(cast_to)
    is_good = found == "text/event-stream" if stream else found.endswith("json") or not is_json
    if not is_good and not response.request.headers.get(RAW_HEADER):
        raise _other_server(response, f"with {found or 'no content type'}")
    try:
        yield
    except json.JSONDecodeError as error:
        raise _other_server(response, "with what is no JSON") from error


def check_fields(*, data: object, cast_to: Any, response: Any) -> None:
    """Raise APIResponseValidationError when `data`, JSON, has none of the fields that its type must have. The arguments
    are those of the client's `_process_response_data`."""
    if not _is_model(cast_to):
        return
    needed = {name for name, field in cast_to.model_fields.items() if field.is_required()}
    if not isinstance(data, dict) or (needed and needed.isdisjoint(data)):
        raise _other_server(response, f"without {', '.join(sorted(needed))}")


def base_model_of(models: Sequence[Model]) -> str:
    """The name of the model that the server serves: the first that it lists. Raises OpenAIError when it lists none."""
    if not models:
        raise OpenAIError("the server lists no model, as no TinyLoRA server would: is its address right?")
    return models[0].id


def _is_model(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def _other_server(response: Any, how: str) -> APIResponseValidationError:
    message = f"{response.url} answered {response.status_code} {how}, not as a TinyLoRA server would"
    return APIResponseValidationError(response, None, message=message)
