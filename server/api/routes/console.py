"""/console: the web console, files of server/api/console as they are.

It has no build step and no data of its own: its pages ask the API, with the key that the person has typed in. So its
files are public, and may be read without a key.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from server.api.deps import PreconditionDep
from server.api.own_route import OwnRoute
from server.api.static_files import CONTENT_TYPES, HEADERS, StaticFile, answer, static_file

PREFIX = "/console"
INDEX = "index.html"


def read_console() -> dict[str, StaticFile]:
    """The console's files by their URL paths; /console/ is the page."""
    found = {
        f"{PREFIX}/{name}": static_file(file.name, file.read_bytes())
        for name, file in _below(files("server.api") / "console", "")
    }
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
        return answer(found(""), precondition)

    @router.get("/{path:path}")
    async def static_file(path: str, precondition: PreconditionDep) -> Response:
        return answer(found(path), precondition)

    def found(path: str) -> StaticFile:
        file = console.get(f"{PREFIX}/{path}")
        if file is None:
            raise HTTPException(404)
        return file

    return router


def _below(directory: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(tuple(CONTENT_TYPES)):
            found.append((prefix + entry.name, entry))
    return found
