"""How many graders a tenant may try: at once, and in a minute.

Design decision: the quotas of requests to the model, with limits of their own. Trying a grader takes a process of the
gateway (for mathematics, for code), of which there are few; with what one tenant may have at once bounded, nobody waits
for more than a few runs of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from server.core.principal import Limits, Principal
from server.limits.quotas import Quotas


class GraderRuns:
    """For one event loop. The operator, too, is a tenant here."""

    def __init__(self, at_once: int, per_minute: int, quotas: Quotas | None = None) -> None:
        self._limits = Limits(requests_per_minute=per_minute, concurrent_requests=at_once)
        self._quotas = quotas or Quotas()

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """One run, for as long as the block runs. TooManyRequests says which limit does not allow it."""
        tenant = replace(principal.tenant, limits=self._limits)
        ticket = self._quotas.admit(replace(principal, tenant=tenant, key_id=None, scopes=frozenset()), 0)
        try:
            yield
        finally:
            ticket.close(None)
