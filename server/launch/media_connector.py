"""How vLLM gets the images and other media of requests: with server/endpoints/media.py, in the place of its own
connection, which asks any address for anyone; and what cannot be read of them is the client's fault.

--allowed-media-domains are the hosts, all with public addresses if there are none; patterns such as *.example.com, too.
An operator's own VLLM_MEDIA_CONNECTOR stays, and then vLLM's rules hold.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from vllm import envs
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.logger import init_logger
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from server.endpoints.guarded_network import AllowedHosts
from server.endpoints.media import MediaFetcher, MediaNotFetched

logger = init_logger("vllm.tinylora")

NAME = "tinylora"
_SETTING = "VLLM_MEDIA_CONNECTOR"
_MIB = 2**20
# Of each image. vLLM's 256 MB and 179 million pixels (0.7 GB in memory, of a file of 30 kB), times the images of a
# request and the requests that run at once, are more than most machines have.
LIMITS = {"VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB": 32, "VLLM_MAX_IMAGE_PIXELS": 25_000_000}


def guard_media(args: Namespace, environ: MutableMapping[str, str]) -> None:
    """Have vLLM fetch over our connection, by its arguments and environment."""
    if environ.setdefault(_SETTING, NAME) != NAME:
        return
    for limit, value in LIMITS.items():
        environ.setdefault(limit, str(value))
    hosts = AllowedHosts(",".join(args.allowed_media_domains or ["*"]), "--allowed-media-domains")
    # All are checked by us; vLLM would refuse those that only a pattern names.
    args.allowed_media_domains = None
    MEDIA_CONNECTOR_REGISTRY.register(NAME)(partial(_Connector, connection=_Connection(MediaFetcher(hosts))))


class _Connector(MediaConnector):  # type: ignore[misc]
    """vLLM's, which raises whatever a reader of images raises."""

    def load_from_url(self, *args: Any, **options: Any) -> Any:
        with _readable():
            return super().load_from_url(*args, **options)

    async def load_from_url_async(self, *args: Any, **options: Any) -> Any:
        with _readable():
            return await super().load_from_url_async(*args, **options)


@contextmanager
def _readable() -> Iterator[None]:
    """Around the reading of a medium: VLLMValidationError where it cannot be read."""
    try:
        yield
    except (ValueError, VLLMClientError):
        raise  # which are answered as they are
    except Exception as error:
        logger.warning("a medium was not read: %s: %s", type(error).__name__, error)
        raise VLLMValidationError(f"It cannot be read: {error}", parameter="url") from error


class _Connection:
    """What a MediaConnector asks of vLLM's HTTPConnection."""

    def __init__(self, fetcher: MediaFetcher) -> None:
        self._fetcher = fetcher

    async def async_get_bytes(
        self, url: str, *, timeout: float | None = None, allow_redirects: bool = True, max_bytes: int | None = None
    ) -> bytes:
        """Raises vLLM's VLLMValidationError, which is the client's fault."""
        most = envs.VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB  # 0 or less is no limit
        limits = [most * _MIB if most > 0 else None, max_bytes]
        try:
            return await self._fetcher.fetch(
                url,
                timeout_s=timeout,
                max_bytes=min((limit for limit in limits if limit is not None), default=sys.maxsize),
                follow_redirects=allow_redirects,
            )
        except MediaNotFetched as error:
            raise VLLMValidationError(f"{url[:200]} was not fetched: {error}", parameter="url") from error

    def get_bytes(self, url: str, **options: Any) -> bytes:
        """As `async_get_bytes`, in a thread that has no event loop."""
        return asyncio.run(self.async_get_bytes(url, **options))
