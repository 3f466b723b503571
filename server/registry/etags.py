"""Conditional requests (RFC 9110, section 13): ETags, If-Match and If-None-Match.

A condition is checked by the transaction that makes the change, so that of two clients with the same ETag one succeeds
and the other gets 412.

Design decision: no If-Modified-Since; times of whole seconds cannot tell two changes apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.core.errors import PreconditionFailed
from server.registry.versions import Entry

ETAG_CHARS = 32
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Precondition:
    """The two headers as they were sent; None when they were not."""

    if_match: str | None = None
    if_none_match: str | None = None

    def check(self, etag: str | None) -> None:
        """PreconditionFailed unless what has this ETag may be changed; None stands for what does not exist."""
        if self.if_match is not None and not _matches(self.if_match, etag, weakly=False):
            raise PreconditionFailed(_sentence("If-Match", self.if_match, etag), param="if-match")
        if self.if_none_match is not None and _matches(self.if_none_match, etag, weakly=True):
            raise PreconditionFailed(_sentence("If-None-Match", self.if_none_match, etag), param="if-none-match")

    def not_modified(self, etag: str) -> bool:
        """Whether a GET is answered with 304. PreconditionFailed when If-Match names another ETag."""
        Precondition(self.if_match).check(etag)
        return self.if_none_match is not None and _matches(self.if_none_match, etag, weakly=True)


NO_PRECONDITION = Precondition()


def revision_etag(revision: int) -> str:
    """The ETag of an adapter by its name, which changes with anything about the adapter."""
    return f'"r{revision}"'


def version_etag(entry: Entry) -> str:
    """The ETag of an adapter by a version of it, of which only `public` can change."""
    return f'"{entry.stored.version}-{entry.stored.adapter.digest[:ETAG_CHARS]}{"-public" if entry.public else ""}"'


def content_etag(content: Mapping[str, Any]) -> str:
    """The ETag of a JSON object."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:ETAG_CHARS]}"'


def _matches(header: str, etag: str | None, *, weakly: bool) -> bool:
    if header.strip() == _ANY:
        return etag is not None
    # A weak tag never matches strongly; ours are all strong. Commas may stand within a tag.
    return etag is not None and any(tag == etag and (weakly or not weak) for weak, tag in _TAG.findall(header))


def _sentence(name: str, sent: str, etag: str | None) -> str:
    current = "it does not exist" if etag is None else f"its ETag is {etag}"
    return f"{name} is {sent[:80]}, and {current}; read it again and decide anew."
