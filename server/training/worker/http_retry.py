"""Requests to the gateway that are repeated until it answers.

A worker outlives restarts of the gateway, so a failed connection, 429, 502, 503 or 504 is never an error, and neither
is a gateway of another version: the request is repeated without a limit, after a growing delay or the one in
Retry-After. Any other 5xx may be about this one request, so it is tried a few times, and so is a file whose bytes the
storage does not have. One that finds its engine dead may be what it died of, and is given up after a few engines. Every
request sent through here must be safe to send twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from server.core.errors import ENGINE_DEAD
from server.core.retry_headers import retry_after_s
from server.training.files.storage import FILE_MISSING
from server.training.jobs.protocol import PROTOCOL_MISMATCH

_BUSY = frozenset({429, 502, 503, 504})
_MAX_RETRY_AFTER_S = 120.0


class GatewayRefused(Exception):
    """The gateway refused a request. `code` is that of OpenAI's error object, "" when there is none."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """first_delay_s, max_delay_s: of the exponential backoff. max_attempts: for a 5xx that waiting may not help,
    and how many engines may die of a request."""

    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    max_attempts: int = 4


class _Retry(Exception):
    def __init__(self, why: str, retry_after_s: float | None, response: httpx.Response | None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s
        self.response = response


async def request_with_retries(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    retry_policy: RetryPolicy,
    json: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    report: Callable[[str], None] | None = None,
    into: BinaryIO | None = None,
) -> httpx.Response:
    """The response, always a 2xx. Raises GatewayRefused for any other that is not repeated, or was too often.

    timeout_s: of one attempt, for each of its phases; None: the client's. report: called with a line for every retry.
    into: where the body is written as it comes, from the beginning at every attempt; the response then has none.
    """

    def wait(state: RetryCallState) -> float:
        again = state.outcome.exception() if state.outcome else None
        given = again.retry_after_s if isinstance(again, _Retry) else None
        backoff = wait_exponential_jitter(
            multiplier=retry_policy.first_delay_s, max=retry_policy.max_delay_s, jitter=retry_policy.first_delay_s
        )
        return backoff(state) if given is None else max(given, retry_policy.first_delay_s)

    def before_sleep(state: RetryCallState) -> None:
        if report is not None and state.outcome is not None and state.next_action is not None:
            report(f"{path}: {state.outcome.exception()}; again in {state.next_action.sleep:.1f} s")

    dead_engines = 0

    def stop(state: RetryCallState) -> bool:
        nonlocal dead_engines
        again = state.outcome.exception() if state.outcome else None
        response = again.response if isinstance(again, _Retry) else None
        if response is None:
            return False
        dead_engines += refused(response).code == ENGINE_DEAD
        attempts = state.attempt_number if _may_last(response) else dead_engines
        return attempts >= retry_policy.max_attempts

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(_Retry), wait=wait, stop=stop, before_sleep=before_sleep, reraise=True
    )
    try:
        async for attempt in retrying:
            with attempt:
                response = await _send(http, method, path, json, headers, timeout_s, into)
    except _Retry as error:
        assert error.response is not None
        raise refused(error.response) from None
    if not response.is_success:
        raise refused(response)
    return response


async def _send(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    json: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    timeout_s: float | None,
    into: BinaryIO | None,
) -> httpx.Response:
    timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
    try:
        async with http.stream(method, path, json=json, headers=headers, timeout=timeout) as response:
            if into is None or not response.is_success:
                await response.aread()
            else:
                # From the beginning: an attempt before may have been cut off.
                into.seek(0)
                into.truncate()
                async for chunk in response.aiter_bytes():
                    into.write(chunk)
    except httpx.TransportError as error:
        raise _Retry(f"no answer ({type(error).__name__}: {error})", None, None) from error
    if response.status_code == 409 and (refusal := refused(response)).code == PROTOCOL_MISMATCH:
        raise _Retry(refusal.message, _retry_after(response), None)
    if response.status_code in _BUSY or response.status_code >= 500:
        raise _Retry(f"status {response.status_code}", _retry_after(response), response)
    return response


def _may_last(response: httpx.Response) -> bool:
    return response.status_code not in _BUSY or refused(response).code == FILE_MISSING


def _retry_after(response: httpx.Response) -> float | None:
    return retry_after_s(response.headers.get("retry-after", ""), _MAX_RETRY_AFTER_S)


def refused(response: httpx.Response) -> GatewayRefused:
    """The error that a response without success stands for."""
    try:
        error = response.json()["error"]
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = "", response.text[:300]
    return GatewayRefused(response.status_code, code, message or f"status {response.status_code}")
