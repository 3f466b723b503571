"""The operator's keys, given when the server starts: the admin's and the workers', and those of vLLM's flag --api-key.

A request's key is compared with every one of them by digest and in constant time: the time that it takes tells neither
which one matched nor how much of it.

Tenants' keys are in the database (api_keys.py).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from server.auth.api_keys import digest_of
from server.core.principal import OPEN_PRINCIPAL, KeyScope
from server.core.settings import Settings

ADMIN: frozenset[KeyScope] = frozenset({"admin"})


@dataclass(frozen=True, slots=True)
class OperatorKeys:
    """The digests of the keys, with what each of them allows."""

    scopes_by_digest: tuple[tuple[str, frozenset[KeyScope]], ...] = ()

    @classmethod
    def of(cls, settings: Settings, api_keys: Sequence[str] = ()) -> OperatorKeys:
        """The keys of `settings`, if it has any, and vLLM's `api_keys`, which may do all but administer."""
        given = (key for key in (settings.admin_key, settings.worker_key) if key is not None)
        admin = [(key.get_secret_value(), ADMIN) for key in given]
        keys = [*admin, *((key, OPEN_PRINCIPAL.scopes) for key in api_keys)]
        return cls(tuple((digest_of(key.encode()), scopes) for key, scopes in keys))

    def scopes_of(self, digest: str) -> frozenset[KeyScope] | None:
        """What the key with this digest allows; None when it is none of these."""
        found = None
        for known, scopes in reversed(self.scopes_by_digest):
            if hmac.compare_digest(known, digest):
                found = scopes
        return found
