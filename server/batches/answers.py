"""What a line was answered, as a line of the output or error file, in OpenAI's shape.

    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code", "request_id", "body"}, "error": null}

An answer that is a success stands in the output file, any other in the error file. A line that was never answered has
`error` with a code instead of `response`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from server.batches.asking import Answered
from server.core.ids import new_id

REQUEST_PREFIX = "batch_req_"
EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
TOO_MUCH_OUTPUT = (
    "batch_output_limit",
    "The answers before this one have as many bytes as those of a batch may have (the server's setting "
    "max_batch_output_bytes); send the rest as another batch.",
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of an answer, as it says itself; zeros where it does not."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What is stored of a line: `data` is its line in the output file, or in that of errors."""

    line: int
    is_error: bool
    data: str
    usage: Usage


def result_of(line: int, custom_id: str, answered: Answered) -> Result:
    """What is stored of a line that was answered."""
    try:
        body = json.loads(answered.body)
    except (ValueError, RecursionError):
        body = {"error": {"message": "The answer is no JSON.", "type": "server_error", "param": None, "code": None}}
    response = {"status_code": answered.status, "request_id": answered.request_id, "body": body}
    row = {"id": new_id(REQUEST_PREFIX), "custom_id": custom_id, "response": response, "error": None}
    is_error = not HTTPStatus.OK <= answered.status < HTTPStatus.MULTIPLE_CHOICES
    return Result(line, is_error, json.dumps(row), _usage(body))


def unanswered(custom_id: str, reason: tuple[str, str]) -> str:
    """The line in the error file of a request that was not answered; `reason` is a code and a sentence."""
    code, message = reason
    error = {"code": code, "message": message}
    return json.dumps({"id": new_id(REQUEST_PREFIX), "custom_id": custom_id, "response": None, "error": error})


def _usage(body: Any) -> Usage:
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return Usage()

    def count(*path: str) -> int:
        value: Any = usage
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    return Usage(
        count("prompt_tokens") or count("input_tokens"),
        count("prompt_tokens_details", "cached_tokens") or count("input_tokens_details", "cached_tokens"),
        count("completion_tokens") or count("output_tokens"),
        count("completion_tokens_details", "reasoning_tokens") or count("output_tokens_details", "reasoning_tokens"),
    )
