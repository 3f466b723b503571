"""Files that pages for a browser are made of, and how they are answered.

Files are read when the app is made, and a path is looked up among them: there is no path on the disk to get out of. The
Content-Security-Policy has no exception: no script, style, frame or connection but the server's own, nothing inline.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fastapi import Response

from server.registry.etags import Precondition

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Kept by browsers, and asked about every time: after an upgrade nobody sees a page half old and half new.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of a page. `etag` is of its content."""

    content: bytes
    content_type: str
    etag: str


def static_file(name: str, content: bytes) -> StaticFile:
    """A file with this name, which says of what kind it is."""
    ending = name[name.rindex(".") :]
    return StaticFile(content, CONTENT_TYPES[ending], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def answer(file: StaticFile, precondition: Precondition) -> Response:
    """The file, or that the browser has it already."""
    headers = {**HEADERS, "etag": file.etag}
    if precondition.not_modified(file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.content_type})
