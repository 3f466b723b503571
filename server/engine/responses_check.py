"""What vLLM's /v1/responses refuses of a body, told before it runs: for a request that is answered as queued.

The body is read into vLLM's own request, which is then made messages and sampling parameters, as the route does it
when the request's turn has come. So what is told is what the same body is told in the foreground. What needs the
tokenizer (how long the prompt is) is not looked at.

Design decision: the route reads the body again when it runs. It is handed to it as an HTTP request like any other, and
vLLM has no door for one that has been read.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter, ValidationError
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import construct_input_messages
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

from server.core.error_responses import validation_error
from server.core.errors import ApiError, BadRequest
from server.core.first_fault import first_fault_reader
from server.engine.error_handlers import refusal_of, unread

_READER = first_fault_reader(TypeAdapter(ResponsesRequest))


def check_responses_request(payload: Mapping[str, Any], max_model_len: int, *, as_chat: bool) -> None:
    """BadRequest for what the route would refuse of `payload`, which stays as it is.

    as_chat: the model is asked by a chat template, as all are but gpt-oss.
    """
    request = _read(payload)
    try:
        if as_chat:
            construct_input_messages(request_instructions=request.instructions, request_input=request.input)
        request.to_sampling_params(max_model_len)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False)) from error
    except Exception as error:
        refusal = refusal_of(error) or _told(error)
        if refusal is not None:  # anything else is a defect, and fails where it is one
            raise refusal from error


def _read(payload: Mapping[str, Any]) -> ResponsesRequest:
    try:
        # As FastAPI has it read, and of a copy: its validators change what they are given.
        request: ResponsesRequest = _READER.validate_python({**payload}, from_attributes=True)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False)) from error
    except Exception as error:
        told = None if getattr(error, "parameter", None) is None else _told(error)
        raise told or unread([ResponsesRequest], payload, error) from error
    return request


def _told(error: Exception) -> ApiError | None:
    """As vLLM's handlers answer `error`; None when they hold it for the server's."""
    answer = create_error_response(error).error
    if answer.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    return BadRequest(answer.message, param=answer.param)
