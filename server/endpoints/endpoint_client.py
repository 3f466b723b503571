"""POSTs of JSON to tenants' endpoints: signed, bounded in time and size, repeated when the endpoint is busy or away.

Signatures are those of Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature), so that any of its
libraries, OpenAI's client among them, verifies them: base64 of HMAC-SHA256 over `id.timestamp.body`, by a secret that
sender and receiver share. A repeated request has the same id.

Redirects are not followed: the address that was allowed would not be the one that is asked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore

from server.core.retry_headers import retry_after_s
from server.endpoints.guarded_network import CONNECTION_ERRORS, AllowedHosts, GuardedBackend, NotAllowed

MAX_ANSWER_BYTES = 2**20
MAX_ATTEMPTS = 4
MAX_CONNECTIONS = 64
MAX_RETRY_AFTER_S = 60.0
# Read of an answer that is not used, for at most so long.
END_BYTES, END_S = 2**16, 1.0
SECRET_PREFIX = "whsec_"
_BUSY = frozenset({408, 425, 429})


class EndpointFailed(Exception):
    """The endpoint gave no answer that could be read. The message is for its owner."""


class _TryAgain(Exception):
    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to, with which headers (names in lower case), signed with which secret (`whsec_` and base64; None: not)."""

    url: str
    headers: Mapping[str, str]
    secret: str | None
    timeout_s: float


class EndpointClient:
    """For one event loop. first_delay_s: before the second attempt; it doubles.

    turn: of a tenant, held while one of its endpoints is asked by `post`. Without turns, tenants whose endpoints hang
    could have all connections.
    """

    def __init__(
        self,
        allowed: AllowedHosts,
        *,
        first_delay_s: float = 1.0,
        backend: httpcore.AsyncNetworkBackend | None = None,
        turn: Callable[[str], AbstractAsyncContextManager[None]] = lambda tenant: nullcontext(),
    ) -> None:
        self._allowed = allowed
        self._turn = turn
        self._first_delay_s = first_delay_s
        self._pool = httpcore.AsyncConnectionPool(
            # Read once: the certificates of all authorities take 40 ms, in which no other request goes on.
            ssl_context=httpcore.default_ssl_context(),
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=30,
            network_backend=GuardedBackend(allowed, backend),
        )

    def check(self, url: str) -> None:
        """NotAllowed for a `url` that would not be asked, as far as that is known without resolving its name."""
        self._allowed.check_host(urlsplit(url).hostname or "")

    async def post(self, endpoint: Endpoint, body: object, tenant: str = "") -> Any:
        """What the endpoint of `tenant` answers with 2xx, parsed. EndpointFailed, also for an address that is not
        allowed."""
        content, message_id = json.dumps(body).encode(), f"msg_{uuid.uuid4().hex}"
        delay_s = self._first_delay_s
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with self._turn(tenant):
                    return await self._attempt(endpoint, content, message_id)
            except _TryAgain as error:
                if attempt == MAX_ATTEMPTS:
                    raise EndpointFailed(f"{error}, in {MAX_ATTEMPTS} attempts") from None
                await asyncio.sleep(delay_s if error.after_s is None else error.after_s)
                delay_s *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, endpoint: Endpoint, content: bytes, message_id: str) -> Any:
        headers = {**endpoint.headers, **signature(endpoint.secret, message_id, int(time.time()), content)}
        async with _answering(endpoint.timeout_s):
            return await self._exchange(endpoint.url, headers, content)

    async def tell(self, url: str, headers: Mapping[str, str], content: bytes, timeout_s: float) -> int:
        """POST `content`, which is JSON, once; the status of the answer, of which nothing else is used.

        EndpointFailed when there is none, also for an address that is not allowed.
        """
        try:
            async with (
                _answering(timeout_s) as deadline,
                self._pool.stream("POST", url, **_request(url, headers, content)) as response,
            ):
                deadline.reschedule(None)  # it has answered
                await _read_to_its_end(response)
                return response.status
        except _TryAgain as error:
            raise EndpointFailed(str(error)) from error

    async def _exchange(self, url: str, headers: Mapping[str, str], content: bytes) -> Any:
        async with self._pool.stream("POST", url, **_request(url, headers, content)) as response:
            if response.status in _BUSY or response.status >= 500:
                raise _TryAgain(f"the endpoint answered with status {response.status}", _retry_after(response.headers))
            if 300 <= response.status < 400:
                raise EndpointFailed(
                    f"the endpoint answered with a redirect ({response.status}), which is not followed"
                )
            answer = bytearray()
            async for chunk in response.aiter_stream():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise EndpointFailed(f"the endpoint's answer is longer than {MAX_ANSWER_BYTES} bytes")
        if not 200 <= response.status < 300:
            text = bytes(answer[:200]).decode(errors="replace")
            raise EndpointFailed(f"the endpoint answered with status {response.status}: {text!r}")
        try:
            return json.loads(bytes(answer))
        except (ValueError, RecursionError):
            text = bytes(answer[:200]).decode(errors="replace")
            raise EndpointFailed(f"the endpoint's answer is not JSON: {text!r}") from None

    async def close(self) -> None:
        """End its connections."""
        await self._pool.aclose()


async def _read_to_its_end(response: httpcore.Response) -> None:
    """So that the connection can be used again; a long or slow answer costs it the connection alone."""
    with suppress(TimeoutError, *CONNECTION_ERRORS):
        async with asyncio.timeout(END_S):
            read = 0
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read > END_BYTES:
                    return


def checked_url(url: str) -> str:
    """`url` itself. ValueError, a sentence for its owner, for one that is not HTTP, or would show a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http:// or https:// and a host")
    if port == 0:
        raise ValueError("port 0 cannot be used; leave it out, or name the port at which the endpoint listens")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a password would be shown; put it into headers, as Authorization")
    if parts.fragment or not url.isascii() or any(character <= " " for character in url):
        raise ValueError("expected ASCII without blanks and without a #fragment")
    return url


@asynccontextmanager
async def _answering(timeout_s: float) -> AsyncIterator[asyncio.Timeout]:
    """Around a request: _TryAgain when there is no answer in time, EndpointFailed where it may not go."""
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            yield deadline
    except TimeoutError:
        raise _TryAgain(f"the endpoint did not answer within {timeout_s:g} s") from None
    except NotAllowed as error:
        raise EndpointFailed(str(error)) from None
    except CONNECTION_ERRORS as error:
        raise _TryAgain(f"no answer from the endpoint ({type(error).__name__}: {error!s:.200})") from error


def _request(url: str, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    own = {
        "host": urlsplit(url).netloc,
        "content-type": "application/json",
        "content-length": str(len(content)),
        "accept": "application/json",
        "user-agent": "tinylora-serve",
    }
    return {"headers": list({**own, **headers}.items()), "content": content}


def signature(secret: str | None, message_id: str, timestamp: int, content: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks; without a secret, those that need none."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if secret is not None:
        signed = f"{message_id}.{timestamp}.".encode() + content
        digest = hmac.new(base64.b64decode(secret.removeprefix(SECRET_PREFIX)), signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float | None:
    for name, value in headers:
        if name.lower() == b"retry-after":
            return retry_after_s(value.decode("latin-1"), MAX_RETRY_AFTER_S)
    return None
