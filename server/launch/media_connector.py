"""How vLLM fetches what requests name by URL: with server/endpoints/media.py, in the place of its own connection, which
asks any address for anyone.

--allowed-media-domains are the hosts, all with public addresses if there are none; patterns such as *.example.com, too.
An operator's own VLLM_MEDIA_CONNECTOR stays, and then vLLM's rules hold.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from vllm import envs
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from server.endpoints.guarded_network import AllowedHosts
from server.endpoints.media import MediaFetcher, MediaNotFetched

NAME = "tinylora"
_SETTING = "VLLM_MEDIA_CONNECTOR"
_MIB = 2**20
# vLLM's 256, times the requests that run at once, would be more than most machines have.
MAX_SIZE_MB = 64


def guard_media(args: Namespace, environ: MutableMapping[str, str]) -> None:
    """Have vLLM fetch over our connection, by its arguments and environment."""
    if environ.setdefault(_SETTING, NAME) != NAME:
        return
    environ.setdefault("VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB", str(MAX_SIZE_MB))
    hosts = AllowedHosts(",".join(args.allowed_media_domains or ["*"]), "--allowed-media-domains")
    # All are checked by us; vLLM would refuse those that only a pattern names.
    args.allowed_media_domains = None
    MEDIA_CONNECTOR_REGISTRY.register(NAME)(partial(MediaConnector, connection=_Connection(MediaFetcher(hosts))))


class _Connection:
    """What a MediaConnector asks of vLLM's HTTPConnection."""

    def __init__(self, fetcher: MediaFetcher) -> None:
        self._fetcher = fetcher

    async def async_get_bytes(
        self, url: str, *, timeout: float | None = None, allow_redirects: bool = True, max_bytes: int | None = None
    ) -> bytes:
        """Raises vLLM's VLLMValidationError, which is the client's fault."""
        limits = [envs.VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB * _MIB or None, max_bytes]
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
