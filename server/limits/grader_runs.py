"""How many graders, and webhooks, a tenant may try: at once, and in a minute.

Trying one, and making a job with one, takes one of the gateway's few processes (for mathematics, for code) or
connections, for which tenants take turns (fair_semaphore.py). Trials are this gateway's, and so is the count.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from server.core.principal import Limits, Principal
from server.limits.quotas import Quotas


class GraderRuns:
    """For one event loop. The operator, too, is a tenant here."""

    def __init__(self, at_once: int, per_minute: int, quotas: Quotas | None = None) -> None:
        self._limits = Limits(requests_per_minute=per_minute, concurrent_requests=at_once)
        self._quotas = quotas or Quotas()

    @asynccontextmanager
    async def counted(self, principal: Principal) -> AsyncIterator[None]:
        """One run, for as long as the block runs. TooManyRequests says which limit does not allow it."""
        tenant = replace(principal.tenant, limits=self._limits)
        ticket = await self._quotas.admit(replace(principal, tenant=tenant, key_id=None, scopes=frozenset()), 0)
        try:
            yield
        finally:
            ticket.close(None)
