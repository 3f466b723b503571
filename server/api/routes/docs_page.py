"""/docs: the API as a page to read and to try, by Swagger UI, from files of this server alone.

Design decision: FastAPI's own pages load their scripts from elsewhere. Those would have the origin of /console, whose
key they could read, and on a machine without internet the pages would be empty.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Response

from server.api.deps import PreconditionDep
from server.api.own_route import OwnRoute
from server.api.static_files import StaticFile, answer, static_file
from server.engine.swagger_ui import SCRIPT, STYLE, swagger_ui

PREFIX = "/docs"
START = "start.js"
# Relative, for a proxy may have the server below a path that it does not know.
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TinyLoRA serving: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/{STYLE}">
</head>
<body>
<div id="api">This page needs JavaScript; what it shows is in <a href="openapi.json">openapi.json</a>.</div>
<script src="docs/{SCRIPT}"></script>
<script src="docs/{START}"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


def read_docs() -> dict[str, StaticFile]:
    """The files of the page, by their URL paths."""
    files = {START: _START.encode(), **swagger_ui()}
    found = {f"{PREFIX}/{name}": static_file(name, content) for name, content in files.items()}
    return {PREFIX: static_file("index.html", _PAGE.encode()), **found}


def docs_router(files: dict[str, StaticFile]) -> APIRouter:
    """The routes that serve `files`."""
    router = APIRouter(include_in_schema=False, route_class=OwnRoute)

    async def serve(file: StaticFile, precondition: PreconditionDep) -> Response:
        return answer(file, precondition)

    for path, file in files.items():
        router.add_api_route(path, partial(serve, file), methods=["GET"], name=path)
    return router
