"""What vLLM's routes refuse of a body, told before it runs: for a request that waits, or is answered as queued.

The body is read into vLLM's own request, which is then made messages and sampling parameters, as the route does it
when the request's turn has come. So what is told is what the route would tell. What needs the tokenizer (how long the
prompt is) is not looked at.

Design decision: the route reads the body again when it runs. It is handed to it as an HTTP request like any other, and
vLLM has no door for one that has been read.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import construct_input_messages
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

from server.core.error_responses import validation_error
from server.core.errors import ApiError, BadRequest
from server.core.first_fault import first_fault_reader
from server.engine.error_handlers import refusal_of, unread

REQUESTS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": AnthropicMessagesRequest,
}
# Made with the server: that of a large model takes part of a second, for which all answers would wait.
_READERS = {model: first_fault_reader(TypeAdapter(model)) for model in REQUESTS.values()}


def check_request(path: str, payload: Mapping[str, Any], max_model_len: int, *, as_chat: bool) -> None:
    """BadRequest for what the route `path`, if it is among REQUESTS, would refuse of `payload`, which stays as it is.

    as_chat: the model is asked by a chat template, as all are but gpt-oss.
    """
    model = REQUESTS.get(path)
    if model is None:
        return
    request = _read(model, payload)
    try:
        if isinstance(request, ResponsesRequest):
            if as_chat:
                construct_input_messages(request_instructions=request.instructions, request_input=request.input)
            request.to_sampling_params(max_model_len)
        elif isinstance(request, ChatCompletionRequest | CompletionRequest):
            request.response_format = None  # for which a parser of calls may put another grammar
            request.to_sampling_params(_limit(request, max_model_len), {})
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False)) from error
    except Exception as error:
        refusal = refusal_of(error) or _told(error)
        if refusal is not None:  # anything else is a defect, and fails where it is one
            raise refusal from error


def _limit(request: BaseModel, longest: int) -> int:
    """Of the answer's tokens; the prompt is not taken off."""
    asked = (vars(request).get(field) for field in ("max_completion_tokens", "max_tokens"))
    return min(longest, next((limit for limit in asked if limit is not None), longest))


def _read(model: type[BaseModel], payload: Mapping[str, Any]) -> BaseModel:
    try:
        # As FastAPI has it read, and of a copy: its validators change what they are given.
        request: BaseModel = _READERS[model].validate_python({**payload}, from_attributes=True)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False)) from error
    except Exception as error:
        told = None if getattr(error, "parameter", None) is None else _told(error)
        raise told or unread([model], payload, error) from error
    return request


def _told(error: Exception) -> ApiError | None:
    """As vLLM's handlers answer `error`; None when they hold it for the server's."""
    answer = create_error_response(error).error
    if answer.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    return BadRequest(answer.message, param=answer.param)
