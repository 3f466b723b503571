"""/console: the web console, files of server/api/console as they are.

It has no build step and no data of its own: its pages ask the API, with the key that the person has typed in. So its
files are public, and may be read without a key.

Files are read when the app is made, and a path is looked up among them: there is no path on the disk to get out of. The
Content-Security-Policy has no exception: no script, style, frame or connection but the server's own, nothing inline.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from server.api.deps import PreconditionDep
from server.api.own_route import OwnRoute
from server.registry.etags import Precondition

PREFIX = "/console"
INDEX = "index.html"
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
    """A file of the console. `etag` is of its content."""

    content: bytes
    content_type: str
    etag: str


def read_console() -> dict[str, StaticFile]:
    """The console's files by their URL paths; /console/ is the page."""
    found = {f"{PREFIX}/{name}": _read(file) for name, file in _below(files("server.api") / "console", "")}
    found[f"{PREFIX}/"] = found[f"{PREFIX}/{INDEX}"]
    return found


def open_paths(console: dict[str, StaticFile]) -> frozenset[str]:
    """What is to be read without a key."""
    return frozenset(console) | {PREFIX}


def console_router(console: dict[str, StaticFile]) -> APIRouter:
    """The routes that serve `console`."""
    router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=OwnRoute)

    @router.get("")
    async def to_page() -> Response:
        # Relative, for a proxy may have the server below a path that it does not know.
        return Response(status_code=308, headers={"location": "console/", **HEADERS})

    @router.get("/")
    async def page(precondition: PreconditionDep) -> Response:
        return answer("", precondition)

    @router.get("/{path:path}")
    async def static_file(path: str, precondition: PreconditionDep) -> Response:
        return answer(path, precondition)

    def answer(path: str, precondition: Precondition) -> Response:
        file = console.get(f"{PREFIX}/{path}")
        if file is None:
            raise HTTPException(404)
        headers = {**HEADERS, "etag": file.etag}
        if precondition.not_modified(file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers={**headers, "content-type": file.content_type})

    return router


def _below(directory: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(tuple(CONTENT_TYPES)):
            found.append((prefix + entry.name, entry))
    return found


def _read(file: Traversable) -> StaticFile:
    content = file.read_bytes()
    ending = file.name[file.name.rindex(".") :]
    return StaticFile(content, CONTENT_TYPES[ending], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
