"""Errors of vLLM that are the client's, and that vLLM does not know to be.

Design decision: by where they come from. An index, a key or an attribute that is missing while vLLM turns a request
into messages is missing from the request; anywhere else it is a defect, and stays one.

Errors that vLLM tells apart itself are its handlers' to answer.
"""

from __future__ import annotations

from http import HTTPStatus
from traceback import walk_tb

from fastapi import FastAPI, Request
from starlette.responses import Response

from server.errors import error_response

# Functions of a request and nothing else.
READERS = ("vllm.entrypoints.chat_utils", "vllm.entrypoints.openai.responses.utils")


def add_engine_error_handlers(app: FastAPI) -> None:
    """Answer 400 where reading a request fails; call it when vLLM has added its own handlers."""
    for kind in (LookupError, AttributeError):
        app.exception_handler(kind)(_refuse_unreadable)


def is_unreadable_request(error: Exception) -> bool:
    """Whether the error was raised by one of READERS itself."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") in READERS


async def _refuse_unreadable(_request: Request, error: Exception) -> Response:
    if not is_unreadable_request(error):
        raise error
    message = f"The request cannot be read: a part of a message is missing or empty ({error})."
    return error_response(HTTPStatus.BAD_REQUEST, message, param=None, code="invalid_request")
