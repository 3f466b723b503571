"""Errors of vLLM that are the client's, and that vLLM does not know to be; and the one that is no request's fault.

They are told from defects by where they are raised. While pydantic reads a body, any error is about the body: vLLM's
request models look into it before its types are checked. While vLLM turns a request into messages, a missing index, key
or attribute is missing from the request. Anywhere else the same exception is a defect, and answered as one.

That the engine has died is 503 and not 500, as of vLLM's /health: whoever tells them apart, as batches do, asks again.

vLLM's own handlers answer the errors that it knows; api/middleware/engine_errors.py gives all of them one shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from traceback import walk_tb
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from server.core.error_responses import response_to, validation_error
from server.core.errors import ENGINE_DEAD, ApiError, BadRequest, Unavailable
from server.core.first_fault import first_fault_reader
from server.core.retry_headers import ENDING_RETRY_S, retry_headers
from server.engine.output_watch import GivenBack

# Functions of a request and nothing else, by the field that they read.
READERS = {"vllm.renderers.chat_utils": "messages", "vllm.entrypoints.openai.responses.utils": "input"}
CHECKS = ("vllm.sampling_params", "vllm.v1.engine.input_processor")
VALIDATOR = "pydantic.type_adapter"
KINDS = (LookupError, AttributeError, TypeError, RecursionError, ArithmeticError, VLLMError)


def add_engine_error_handlers(app: FastAPI) -> None:
    """Answer 400 where reading a request fails; call it when vLLM has added its own handlers."""
    for kind in KINDS:
        app.exception_handler(kind)(_Refusal(app.exception_handlers.get(kind)))
    app.exception_handler(ValidationError)(_refuse_values)


def keep_errors_of_messages(serving: Any) -> None:
    """Have `serving`, vLLM's object for /v1/messages, answer these errors so, too: no handler sees them, for its route
    makes an answer of every exception, mostly 500. Call once."""
    create = serving.create_messages

    async def created(*args: Any, **kwargs: Any) -> Any:
        try:
            return await create(*args, **kwargs)
        except Exception as error:
            told = engine_died() if isinstance(error, EngineDeadError) else refusal_of(error)
            if told is None:
                raise
            return ErrorResponse(error=ErrorInfo(message=told.message, type=told.type, code=told.status))

    serving.create_messages = created


class _Refusal:
    """Handles one kind of error; what is no client's goes to vLLM's handler, or on if that has none."""

    def __init__(self, otherwise: Any) -> None:
        self._otherwise = otherwise

    async def __call__(self, request: Request, error: Exception) -> Response:
        if VALIDATOR in _modules(error) and getattr(error, "parameter", None) is None:
            models = [field.field_info.annotation for field in request.scope["route"].dependant.body_params]
            return response_to(unread(models, await request.json(), error))
        refusal = refusal_of(error)
        if refusal is not None:
            return response_to(refusal)
        if self._otherwise is None:
            raise error
        answer: Response = await self._otherwise(request, error)
        if isinstance(error, GivenBack):
            answer.headers.update(retry_headers(ENDING_RETRY_S))
        # vLLM's handler has the server end.
        return response_to(engine_died()) if isinstance(error, EngineDeadError) else answer


def refusal_of(error: Exception) -> BadRequest | None:
    """The answer to an error about a request that had been read; None when it is no client's, or vLLM knows better."""
    # Of vLLM's own refusals its handler tells the words and the field.
    field = None if isinstance(error, VLLMClientError) else READERS.get(_modules(error)[-1])
    if field is not None:
        message = f"The request cannot be read: a part of a message is missing or empty ({error})."
        return BadRequest(message, param=field)
    if isinstance(error, EngineGenerateError) and _is_refusal(error.__cause__):
        return BadRequest(str(error.__cause__), code="invalid_value")
    return None


def engine_died() -> Unavailable:
    """The answer to a request for an engine that has ended, and with it the server."""
    return Unavailable(
        "The engine has died, and this server ends; send the request again, for another server.",
        code=ENGINE_DEAD,
        headers=retry_headers(ENDING_RETRY_S),
    )


def unread(models: Iterable[Any], body: Any, error: Exception) -> ApiError:
    """The answer to an `error` that pydantic ran into while it read `body` as these `models`: the fields at fault."""
    faults = [fault for model in models if isinstance(body, Mapping) for fault in _faults(model, body)]
    if faults:
        return validation_error(faults)
    return BadRequest(f"The request cannot be read: a field has a value of the wrong kind ({error}).")


async def _refuse_values(_request: Request, error: Exception) -> Response:
    """What vLLM validates again, later than its routes do: lazily read messages, and each part of a batch."""
    assert isinstance(error, ValidationError)
    return response_to(validation_error(error.errors(include_url=False)))


def _is_refusal(cause: BaseException | None) -> bool:
    """Of a check before the engine has the request: vLLM passes errors of its own kind on, and hides all others."""
    return isinstance(cause, ValueError) and _modules(cause)[-1:] in [[module] for module in CHECKS]


def _modules(error: Exception) -> list[str]:
    """Those whose code was running, the innermost last."""
    return [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]


def _faults(model: Any, body: Mapping[str, Any]) -> Iterator[Any]:
    """What is wrong with every field on its own, as pydantic says it. The model's own validators are left out."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in body:
            continue
        kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        try:
            first_fault_reader(TypeAdapter(kind)).validate_python(body[key])
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                yield {**fault, "loc": (key, *fault["loc"])}
        except Exception as error:
            yield {"type": "value_error", "loc": (key,), "msg": f"cannot be read ({error})", "input": body[key]}
