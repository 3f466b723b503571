"""Requests to the gateway that are sent again until it answers.

Design decision: a worker outlives the gateway's restarts, so no answer (a connection that fails, 429, 502, 503, 504)
is never an error: it is waited for, longer each time or as long as Retry-After says, by whoever is not cancelled. Any
other 5xx is tried a few times, for it may be about this one request.

Every request sent through here must be one that may arrive twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

_BUSY = frozenset({429, 502, 503, 504})
_MAX_RETRY_AFTER_S = 120.0


class GatewayRefused(Exception):
    """The gateway answered, and will not do it. `code` is that of OpenAI's error object, "" when there is none."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Seconds before the first repetition and the longest between two; how often a 500 is tried."""

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
    """The answer, a 2xx. Raises GatewayRefused for any other that does not pass. `report` hears of every repetition.

    timeout_s: of one attempt, in each of its phases; None, as the client has it. into: where the answer's bytes are
    written as they come; then they are not in the answer.
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

    def stop(state: RetryCallState) -> bool:
        again = state.outcome.exception() if state.outcome else None
        lasting = isinstance(again, _Retry) and again.response is not None and again.response.status_code not in _BUSY
        return lasting and state.attempt_number >= retry_policy.max_attempts

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
    if response.status_code in _BUSY or response.status_code >= 500:
        raise _Retry(f"status {response.status_code}", _retry_after(response), response)
    return response


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def refused(response: httpx.Response) -> GatewayRefused:
    """What an answer that is no success says."""
    try:
        error = response.json()["error"]
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = "", response.text[:300]
    return GatewayRefused(response.status_code, code, message or f"status {response.status_code}")
