"""How many graders, and webhooks, a tenant may try: at once, and in a minute.

Trying one, and making a job with a python grader, takes one of the gateway's few processes (for mathematics, for code)
or connections, for which tenants take turns (fair_semaphore.py). Trials are this gateway's, and so is the count.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from server.core.errors import TooManyRequests
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
        try:
            ticket = await self._quotas.admit(replace(principal, tenant=tenant, key_id=None, scopes=frozenset()), 0)
        except TooManyRequests as refused:
            headers = refused.headers or {}
            message = self._why(tenant.name, refused.reason, headers)
            raise TooManyRequests(message, counted="requests", reason=refused.reason, headers=headers) from None
        try:
            yield
        finally:
            ticket.close(None)

    def _why(self, tenant: str, reason: str, headers: Mapping[str, str]) -> str:
        what = "graders, webhooks and jobs with a python grader"
        if reason == "concurrent_requests":
            most, setting = f"at once: {self._limits.concurrent_requests}", "max_grader_runs"
            again = "when one of them has ended"
        else:
            most, setting = f"in a minute: {self._limits.requests_per_minute}", "grader_runs_per_minute"
            again = f"in {headers['retry-after']} s"
        return (
            f"The tenant {tenant} tries as many {what} as it may {most} (the server's setting {setting}). "
            f"Try again {again}."
        )
