"""A response that is answered to the client that asked for it, and not in the background: when it is stored.

A stream says its response's id with its first event. From then on the response is there, on every gateway: it can be
fetched and listed as one that runs, and deleted, and what was deleted is not stored when it ends. Of one that is
answered whole nobody knows the id before, so it is stored when it has ended.

A client that leaves has not got its answer, and nothing of it stays.

Design decision: a row from the first event on, and not a note of this gateway about what it runs: a request to delete
comes to any gateway. It costs a stream one more write.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
import structlog

from server.core.errors import ApiError, NotFound
from server.core.principal import Principal
from server.inference.responses.leases import Leases
from server.inference.responses.plan import ResponsePlan
from server.inference.responses.store import ResponseStore


class AttendedResponse:
    """`plan` of `principal`; call `close` when its request has ended in any way."""

    def __init__(self, store: ResponseStore, leases: Leases, principal: Principal, plan: ResponsePlan) -> None:
        self._store = store
        self._leases = leases
        self._principal = principal
        self._plan = plan
        self._runs = False  # whether its row says so

    async def begin(self, response: dict[str, Any]) -> bool:
        """Store a response whose stream begins; whether that could be done."""
        self._runs = await self._store.keep(self._principal, self._plan, response)
        if self._runs:
            self._leases.take(self._plan.id)
        return self._runs

    async def end(self, response: dict[str, Any]) -> bool:
        """Store a response that has ended; False when that cannot be done, or it has been deleted since it began."""
        kept = await self._store.keep(self._principal, self._plan, response, begun=self._runs)
        self._runs = self._runs and not kept
        return kept

    async def close(self) -> None:
        """Forget a response that did not end."""
        self._leases.give_up(self._plan.id)
        if not self._runs:
            return
        try:
            await self._store.forget(self._principal.tenant.id, self._plan.id)
        except NotFound:
            pass  # deleted by its tenant
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            # Then its lease ends, and the response with it, as failed.
            structlog.get_logger().error("response not forgotten", response=self._plan.id, error=str(error))
