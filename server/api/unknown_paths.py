"""Paths that no route has: which these are, and the answer to them, with the nearest path that there is; and what those
take that a route has.

Design decision: such a path is told, and not redirected to the one without its slash at the end, as Starlette would.
The address of a redirect is made of the Host header, which is another one behind a proxy and the caller's to choose,
and clients leave their key or their body behind on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from server.core.errors import NotFound
from server.core.paths import is_below

VERSION = "v1"
# How alike two words of paths are (difflib's ratio) of which one is taken for the other misspelt.
LIKENESS = 0.75
MAX_CHARS = 200


class UnknownPaths:
    """Of `app`, whenever it is asked. One route of it has all paths below `shelf`, of which only `files` are there."""

    def __init__(self, app: FastAPI, shelf: str, files: Collection[str]) -> None:
        self._app = app
        self._shelf = shelf
        self._files = files

    def refusal(self, scope: Scope) -> NotFound | None:
        """The answer to a request whose path no route has, whatever its method; None where one has it."""
        path = scope["path"]
        is_known = _has(self._app.routes, scope, path)
        if is_known and path != self._shelf and is_below(path, (self._shelf,)):
            is_known = path in self._files
        return None if is_known else no_route(self._app.routes, scope)


def no_route(routes: Sequence[BaseRoute], scope: Scope) -> NotFound:
    """What a request is told whose path none of `routes` has."""
    path = scope["path"]
    near = nearest(routes, scope)
    hint = "GET /docs shows those there are." if near is None else f"Did you mean {near}?"
    return NotFound(f"There is no route {scope.get('method', 'GET')} {path:.{MAX_CHARS}}. {hint}")


def nearest(routes: Sequence[BaseRoute], scope: Scope) -> str | None:
    """The path of a route that a request was probably meant for, with the request's own ids in it."""
    if len(scope["path"]) > MAX_CHARS:
        return None
    words = [word for word in scope["path"].split("/") if word]
    if not {".", ".."}.isdisjoint(words):
        return None  # clients take these for directions, and send another path
    while words[:2] == [VERSION, VERSION]:
        words.pop(0)
    forms = [words] if words[:1] == [VERSION] else [words, [VERSION, *words]]
    for form in forms:
        if form and _has(routes, scope, "/" + "/".join(form)):
            return "/" + "/".join(form)
    best, likeness = None, 0.0
    for route in routes:
        template = getattr(route, "path", "").split("/")[1:]
        for form in forms:
            if getattr(route, "include_in_schema", False) and (found := _likeness(template, form)) > likeness:
                best, likeness = _filled(template, form), found
    return best


def methods_of(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """What the path of a request takes, by all `routes` that have it; HEAD wherever GET is taken."""
    methods: set[str] = set()
    for route in routes:
        if route.matches(scope)[0] != Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _has(routes: Sequence[BaseRoute], scope: Scope, path: str) -> bool:
    asked = {**scope, "path": path}
    return any(route.matches(asked)[0] != Match.NONE for route in routes)


def _likeness(template: Sequence[str], words: Sequence[str]) -> float:
    """That of the words that are least alike, apart from parameters; 0 below LIKENESS."""
    if len(template) != len(words):
        return 0.0
    least = 1.0
    for expected, word in zip(template, words, strict=True):
        if expected != word and not expected.startswith("{"):
            least = min(least, SequenceMatcher(None, expected, word).ratio())
            if least < LIKENESS:
                return 0.0
    return least


def _filled(template: Sequence[str], words: Sequence[str]) -> str:
    parts = (word if part.startswith("{") else part for part, word in zip(template, words, strict=True))
    return "/" + "/".join(parts)
