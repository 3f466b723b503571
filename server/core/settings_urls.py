"""URLs among the settings: which there can be something at, and how one may be shown."""

from __future__ import annotations

import re
from typing import Annotated

from fsspec.core import split_protocol  # type: ignore[import-untyped]
from fsspec.registry import get_filesystem_class  # type: ignore[import-untyped]
from pydantic import AfterValidator, SecretStr
from redis.asyncio import connection as redis_url


def without_password(url: str) -> str:
    """`url` as it may be shown: without the password, or the secret of a bucket, that may be in it."""
    return re.sub(r"(?<=://)[^/@]*:[^/]*@", "***@", url)


def _checked_redis(url: SecretStr) -> SecretStr:
    try:
        redis_url.parse_url(url.get_secret_value())
    except ValueError:
        # Not its own words, which have the password.
        raise ValueError(
            "expected redis://[[user]:password@]host[:port][/database], rediss://... for TLS, or unix://path"
        ) from None
    return url


def _checked_storage(url: str) -> str:
    try:
        get_filesystem_class(split_protocol(url)[0])
    except ImportError as error:
        # pydantic tells of a ValueError only; this one names the package to install.
        raise ValueError(str(error)) from error
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_checked_redis)]
FilesUrl = Annotated[str, AfterValidator(_checked_storage)]
