"""Who a request is from: a tenant, and the key it came with.

The middleware that checks keys decides it once and puts it into the request's state (request_state.py); nothing later
reads the headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The official clients spell it so, and let only a header of this spelling take the place of their own.
ORGANIZATION_HEADER = "OpenAI-Organization"

DEFAULT_TENANT_ID = 1
DEFAULT_TENANT_NAME = "default"

KeyScope = Literal["infer", "adapters", "train", "admin"]
KEY_SCOPES: tuple[KeyScope, ...] = ("infer", "adapters", "train", "admin")


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas; None is no limit. Tokens are those of prompts and answers together.

    Of priority None is none of it; that and the month are a tenant's, never a key's.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    priority_requests_per_minute: int | None = None
    tokens_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who owns adapters. `weight` is its share of a full server, relative to the others'.

    `month_tokens` is what it has used in this calendar month, where that has a limit.
    """

    id: int
    name: str
    weight: float = 1.0
    limits: Limits = Limits()
    max_adapters: int | None = None
    month_tokens: int = 0


DEFAULT_TENANT = Tenant(DEFAULT_TENANT_ID, DEFAULT_TENANT_NAME)


@dataclass(frozen=True, slots=True)
class Principal:
    """A tenant, acting with a key. `key_id` is None for the operator's keys, and on a server without keys."""

    tenant: Tenant
    key_id: str | None
    scopes: frozenset[KeyScope]
    key_limits: Limits = Limits()

    def may(self, scope: KeyScope) -> bool:
        """Whether the key allows what `scope` stands for; admin allows everything."""
        return scope in self.scopes or "admin" in self.scopes


# On a server without keys everyone is the default tenant; only tenants and keys cannot be made there.
OPEN_PRINCIPAL = Principal(DEFAULT_TENANT, None, frozenset({"infer", "adapters", "train"}))
