"""Names of adapters, and references to them.

    acme/math          the latest version of one of the tenant's own adapters
    acme/math@3        a version
    acme/math@prod     the version, or one of the versions, that the alias `prod` stands for
    ~globex/math       a public adapter of the tenant `globex`, with or without a version or alias

Names are strict (ASCII, URL-safe, no empty parts): one stands in a path, a header, a metric's label and the `model`
field without escaping, and is never mistaken for a route or a version.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from server.core.errors import BadRequest, quoted

# The labels of metrics that stand for no adapter: requests without one, and those that share a label.
OTHER, FORMER = "other", "former"
BASE_LABEL, INLINE_LABEL, MIX_LABEL, UNRESOLVED_LABEL = "base", "inline", "mix", "unresolved"
SHARED_LABELS = frozenset({BASE_LABEL, INLINE_LABEL, MIX_LABEL, UNRESOLVED_LABEL, OTHER, FORMER})

MAX_NAME_LENGTH = 128
# Paths below /adapters/<name> that mean something else than an adapter.
RESERVED_PARTS = frozenset({"aliases"})
RESERVED_LAST_PARTS = frozenset({"vector", "versions", "restore"})
RESERVED_NAMES = SHARED_LABELS | {"bulk", "export"}
# The names under which adapters without one are served: inline:<digest>, mix:<digest>.
RESERVED_PREFIXES = ("inline:", "mix:")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter by name; of the tenant that asks, unless `tenant` names another.

    The latest version, unless one is named: at most one of `version` and `alias` is given.
    """

    name: str
    version: int | None = None
    alias: str | None = None
    tenant: str | None = None

    @property
    def qualified_name(self) -> str:
        """The name with the tenant before it, as in listings of others' adapters."""
        return self.name if self.tenant is None else f"~{self.tenant}/{self.name}"

    def seen_by(self, tenant: str) -> Reference:
        """The same adapter in the words of `tenant`, which has no need to name itself."""
        return replace(self, tenant=None) if self.tenant == tenant else self

    def __str__(self) -> str:
        which = self.version or self.alias
        return self.qualified_name if which is None else f"{self.qualified_name}@{which}"


def parse_reference(text: str, param: str) -> Reference:
    """`[~tenant/]name[@version|@alias]`. BadRequest naming `param` when it is not that."""
    tenant: str | None = None
    if text.startswith("~"):
        tenant, _, text = text[1:].partition("/")
        check_tenant_name(tenant, param)
    name, at, which = text.partition("@")
    if at and not _VERSION.fullmatch(which) and not _ALIAS.fullmatch(which):
        raise BadRequest(
            f"{param} is {quoted(text)}: after '@' comes a version, a whole number from 1, or an alias such as 'prod'",
            param=param,
            code="invalid_name",
        )
    name = check_name(name, param)
    if which.isdigit():
        return Reference(name, version=int(which), tenant=tenant)
    return Reference(name, alias=which or None, tenant=tenant)


def check_alias(alias: str, param: str) -> str:
    """`alias` itself when an alias may be called so, else BadRequest naming `param`."""
    if not _ALIAS.fullmatch(alias):
        raise BadRequest(
            f"{param} is {quoted(alias)}, expected a letter and then at most 63 letters, digits, '.', '_' and '-'",
            param=param,
            code="invalid_alias",
        )
    return alias


def check_tenant_name(name: str, param: str) -> str:
    """`name` itself when a tenant may be called so, else BadRequest naming `param`."""
    if not _TENANT.fullmatch(name):
        raise BadRequest(
            f"{param} is {quoted(name)}, expected a tenant's name: a letter or digit and then at most 63 letters, "
            "digits, '.', '_' and '-'",
            param=param,
            code="invalid_name",
        )
    return name


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
    parts = name.split("/")
    reserved = parts[-1] in RESERVED_LAST_PARTS or not RESERVED_PARTS.isdisjoint(parts)
    if reserved or name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES):
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
