"""Names of adapters, and references to them: `acme/math` is the latest version, `acme/math@3` a pinned one.

Design decision: names are strict (ASCII, URL-safe, no empty parts), so that one may stand in a path, a header, a
metric's label and the `model` field without escaping, and can never be mistaken for a route or a version.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from server.errors import BadRequest, quoted
from server.metrics import SHARED_LABELS

MAX_NAME_LENGTH = 128
# A path below /adapters/<name> that means something else than an adapter.
RESERVED_LAST_PARTS = frozenset({"vector", "versions"})
# The names under which adapters without one are served: inline:<digest>, mix:<digest>.
RESERVED_PREFIXES = ("inline:", "mix:")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter by name; its latest version when `version` is None."""

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def parse_reference(text: str, param: str) -> Reference:
    """`name` or `name@version`. BadRequest naming `param` when it can be neither."""
    name, at, version = text.partition("@")
    if at and not _VERSION.fullmatch(version):
        raise BadRequest(
            f"{param} is {quoted(text)}: after '@' comes a version, a whole number from 1",
            param=param,
            code="invalid_name",
        )
    return Reference(check_name(name, param), int(version) if at else None)


def check_name(name: str, param: str) -> str:
    """`name` itself when an adapter may be called so, else BadRequest naming `param`."""
    if not name:
        raise BadRequest(
            f"{param} is empty, expected an adapter's name such as 'acme/math'", param=param, code="invalid_name"
        )
    if len(name) > MAX_NAME_LENGTH:
        raise BadRequest(
            f"{param} has {len(name)} characters, expected at most {MAX_NAME_LENGTH}", param=param, code="invalid_name"
        )
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{param} is {quoted(name)}, expected parts of letters, digits, '.', '_', '-' and ':' that begin with a "
            "letter or digit, separated by '/'",
            param=param,
            code="invalid_name",
        )
    last = name.rpartition("/")[2]
    if last in RESERVED_LAST_PARTS or name in SHARED_LABELS or name.startswith(RESERVED_PREFIXES):
        raise BadRequest(
            f"{param} is {quoted(name)}, which is reserved; choose another name", param=param, code="invalid_name"
        )
    return name


def check_new_name(name: str, base_models: Collection[str], param: str = "name") -> str:
    """`check_name` for a name about to be registered, which must not hide a base model."""
    if name in base_models:
        raise BadRequest(
            f"{param} is {quoted(name)}, the name of the base model; choose another name",
            param=param,
            code="invalid_name",
        )
    return check_name(name, param)
