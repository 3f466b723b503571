"""Images and other media that requests name by URL, fetched as endpoints are asked: over public addresses only, unless
the operator names the host. Redirects are followed, each as the first URL is.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urljoin

import httpcore
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from server.endpoints.guarded_network import CONNECTION_ERRORS, AllowedHosts, GuardedBackend, NotAllowed

MAX_REDIRECTS = 5
# A host that lets every connection wait would keep the request, and its place in the queue.
DEFAULT_TIMEOUT_S = 30.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = [("User-Agent", "tinylora"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]


class MediaNotFetched(Exception):
    """The message is for the client."""


class MediaFetcher:
    """Fetches bytes from `allowed` hosts; of any event loop, for it keeps no connections."""

    def __init__(self, allowed: AllowedHosts, backend: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._network = GuardedBackend(allowed, backend)
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, url: str, *, timeout_s: float | None, max_bytes: int, follow_redirects: bool = True) -> bytes:
        """What is at `url`. MediaNotFetched says why not."""
        timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),
                httpcore.AsyncConnectionPool(ssl_context=self._context(), network_backend=self._network) as pool,
            ):
                for _ in range(MAX_REDIRECTS + 1 if follow_redirects else 1):
                    found = await _look(pool, url, max_bytes)
                    if isinstance(found, bytes):
                        return found
                    url = found
                raise MediaNotFetched(
                    f"there are more than {MAX_REDIRECTS} redirects" if follow_redirects else "it is redirected"
                )
        except NotAllowed as error:
            raise MediaNotFetched(str(error)) from None
        except TimeoutError:
            raise MediaNotFetched(f"it did not come within {timeout_s:g} s") from None
        except CONNECTION_ERRORS as error:
            raise MediaNotFetched(f"the connection failed: {error or type(error).__name__}") from None

    def _context(self) -> ssl.SSLContext:
        # Reading the certificates of all authorities takes longer than most images.
        if self._tls is None:
            self._tls = httpcore.default_ssl_context()
        return self._tls


async def _look(pool: httpcore.AsyncConnectionPool, url: str, max_bytes: int) -> bytes | str:
    """What is at `url`, or the URL that it redirects to."""
    try:
        parts = parse_url(url)._replace(fragment=None)
    except LocationParseError as error:
        raise MediaNotFetched(f"it is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise MediaNotFetched("expected http:// or https:// and a host")
    # Not the text, of which httpcore leaves out what is behind a semicolon.
    target = httpcore.URL(
        scheme=parts.scheme, host=(parts.host or "").strip("[]"), port=parts.port, target=parts.request_uri
    )
    async with pool.stream("GET", target, headers=[("Host", parts.netloc), *_HEADERS]) as response:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return urljoin(parts.url, headers[b"location"].decode("latin-1"))
        if response.status != 200:
            raise MediaNotFetched(f"the host answered with status {response.status}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise MediaNotFetched("the host sent it compressed, though it was asked not to")
        got = bytearray()
        async for chunk in response.aiter_stream():
            got += chunk
            if len(got) > max_bytes:
                raise MediaNotFetched(f"it is larger than {max_bytes} bytes")
        return bytes(got)
