"""URLs among the settings: why there can be nothing at one, and how one may be shown."""

from __future__ import annotations

import re

from fsspec.core import split_protocol  # type: ignore[import-untyped]
from fsspec.registry import get_filesystem_class  # type: ignore[import-untyped]
from redis.asyncio import connection as redis_url


def without_password(url: str) -> str:
    """`url` as it may be shown: without the password, or the secret of a bucket, that may be in it."""
    return re.sub(r"(?<=://)[^/@]*:[^/]*@", "***@", url)


def why_no_redis(url: str) -> str | None:
    """Why there can be no Redis at `url`, for the operator, without the password in it. None: there can."""
    try:
        redis_url.parse_url(url)
    except ValueError:
        return "expected redis://[[user]:password@]host[:port][/database], rediss://... for TLS, or unix://path"
    return None


def why_no_storage(url: str) -> str | None:
    """Why there can be no files at `url`, for the operator: the package to install, say. None: there can."""
    try:
        get_filesystem_class(split_protocol(url)[0])
    except (ImportError, ValueError) as error:
        return str(error)
    return None
