"""Stored responses for whoever awaits them: the functions of rows.py in transactions, in worker threads.

What the database refuses costs no answer: a response that cannot be kept leaves with store: false.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row
from starlette.concurrency import run_in_threadpool

from server.auth.api_keys import is_still_valid
from server.core.clock import now
from server.core.errors import ApiError, BadRequest, NotFound
from server.core.principal import Principal
from server.db.database import Database
from server.db.idempotency import claim_key, keep_answer
from server.inference.responses.event_rows import (
    EventBatch,
    StreamPart,
    append_events,
    last_number,
    read_events,
    sent_event,
)
from server.inference.responses.plan import ResponseLimits, ResponsePlan, needs_store, plan_response, too_large
from server.inference.responses.rows import (
    RUNNING,
    begin_response,
    delete_response,
    end_response,
    find_response,
    get_response,
    insert_response,
    lost_responses,
    renew_leases,
    response_of,
)

FIRST_EVENTS = ("created", "queued")
LOST = {"code": "server_error", "message": "The server that ran this response was stopped. Send it again."}
NO_KEY = {
    "code": "api_key_revoked",
    "message": "Before its turn came, the API key that made the response was revoked or has expired, or its tenant was "
    "disabled. Make it again with a key that is valid.",
}


class ResponseStore:
    """The responses of one database."""

    def __init__(self, database: Database, limits: ResponseLimits) -> None:
        self.limits = limits
        self._database = database
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    async def plan(
        self, payload: dict[str, Any], principal: Principal, size: int, model: str
    ) -> tuple[ResponsePlan, int]:
        """As `plan_response`, for a body of `size` bytes."""
        if not (self.limits.keeps and needs_store(payload)):
            return plan_response(payload, size, model, self.limits, None, principal.tenant.id)

        def read() -> tuple[ResponsePlan, int]:
            with self._database.read() as connection:
                return plan_response(payload, size, model, self.limits, connection, principal.tenant.id)

        return await run_in_threadpool(read)

    async def keep(
        self, principal: Principal, plan: ResponsePlan, response: Mapping[str, Any], *, begun: bool = False
    ) -> bool:
        """Store `response`; whether that could be done.

        begun: it takes the place of what was stored of it when it began, and is not stored if that has been deleted.
        """
        tenant_id = principal.tenant.id

        def keep(connection: Connection) -> bool:
            if begun:
                try:
                    delete_response(self._database, connection, tenant_id, plan.id)
                except NotFound:
                    return False
            return self._insert(connection, tenant_id, plan, response)

        try:
            return await run_in_threadpool(self._database.transact, keep)
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            self._log.error("response not stored", response=plan.id, error=str(error))
            return False

    async def queue(self, principal: Principal, plan: ResponsePlan) -> dict[str, Any] | None:
        """Store `plan` as a response that is to run; or nothing, and OpenAI's object of the response that there is of
        the same request, as it is now. BadRequest when it is too long."""

        def queue(connection: Connection) -> dict[str, Any] | None:
            earlier = self._earlier(connection, principal.tenant.id, plan)
            if earlier is not None:
                return response_of(earlier)
            if not self._insert(connection, principal.tenant.id, plan, plan.queued):
                raise too_large(self.limits)
            if plan.streams and not self._append(connection, _first_events(principal.tenant.id, plan)):
                raise too_large(self.limits)
            return None

        return await run_in_threadpool(self._database.transact, queue)

    def _earlier(self, connection: Connection, tenant_id: int, plan: ResponsePlan) -> Row[Any] | None:
        """The response that the plan's Idempotency-Key stands for. Where there is none, or none any more (it was
        refused, or has been deleted), the key stands for the plan's from now on."""
        if plan.key is None:
            return None
        kept = claim_key(self._database, connection, plan.key, now())
        row = None if kept is None else find_response(connection, tenant_id, json.loads(kept.body)["id"])
        if row is None:
            keep_answer(connection, plan.key, 200, {"id": plan.id}, {})
        return row

    def _insert(self, connection: Connection, tenant_id: int, plan: ResponsePlan, response: Mapping[str, Any]) -> bool:
        return insert_response(
            self._database,
            connection,
            tenant_id=tenant_id,
            items=plan.items,
            response=response,
            streams=plan.streams,
            most_bytes=self.limits.most_bytes,
            most_tenant_bytes=self.limits.most_tenant_bytes,
        )

    async def begin(self, response_id: str, principal: Principal) -> bool:
        """A queued response runs now, unless the key of `principal`, who made it, is not valid any more; whether."""

        def begin(connection: Connection) -> bool:
            if not is_still_valid(connection, principal):
                return False
            begin_response(connection, response_id)
            return True

        return await run_in_threadpool(self._database.transact, begin)

    async def end(
        self, tenant_id: int, response_id: str, ended: Mapping[str, Any], events: EventBatch | None = None
    ) -> None:
        """End a response that runs, as `end_response`, with the last `events`; nothing if it does not run any more."""

        def end(connection: Connection) -> None:
            if events is None or self._append(connection, events):
                self._end(connection, tenant_id, response_id, ended)

        await run_in_threadpool(self._database.transact, end)

    async def append(self, batches: Iterable[EventBatch]) -> set[str]:
        """Store events of several responses; the ids of those that still run."""
        ordered = sorted(batches, key=lambda batch: batch.tenant_id)  # the order in which their rooms are locked

        def append(connection: Connection) -> set[str]:
            return {batch.response_id for batch in ordered if self._append(connection, batch)}

        return await run_in_threadpool(self._database.transact, append)

    async def last_event(self, tenant_id: int, response_id: str) -> int | None:
        """The number of the last event of a stream in the background; None while the response runs.

        NotFound when there is no such response, BadRequest when it was not made to be streamed in the background.
        """

        def read() -> int | None:
            with self._database.read() as connection:
                row = get_response(connection, tenant_id, response_id)
            if row.events is None:
                raise BadRequest(
                    f"The response {response_id} has no stream: only those made with both background and stream have "
                    "one that can be taken up again. Leave stream out, and ask again until it has ended.",
                    param="stream",
                    code="not_streamed",
                )
            return last_number(row)

        return await run_in_threadpool(read)

    async def events(self, tenant_id: int, response_id: str, number: int) -> StreamPart | None:
        """As `read_events`."""

        def read() -> StreamPart | None:
            with self._database.read() as connection:
                return read_events(connection, tenant_id, response_id, number)

        return await run_in_threadpool(read)

    async def forget(self, tenant_id: int, response_id: str) -> None:
        """Delete a response of which nobody knows."""
        await run_in_threadpool(self.delete, tenant_id, response_id)

    async def still_running(self, response_ids: Iterable[str]) -> set[str]:
        """Renew the leases of responses; the ids of those that nobody has ended."""
        ids = list(response_ids)
        return await run_in_threadpool(self._database.transact, lambda connection: renew_leases(connection, ids))

    async def end_lost(self) -> None:
        """End responses whose gateway is gone, as failed."""

        def end_some(connection: Connection) -> None:
            for row in lost_responses(connection):
                self._end(connection, row.tenant_id, row.id, {"status": "failed", "error": LOST})

        await run_in_threadpool(self._database.transact, end_some)

    def cancel(self, tenant_id: int, response_id: str) -> dict[str, Any]:
        """End a background response as cancelled; OpenAI's object of it, also of one that had ended. Blocks.

        Raises NotFound, and BadRequest for one that did not run in the background.
        """

        def cancel(connection: Connection) -> dict[str, Any]:
            row = get_response(connection, tenant_id, response_id)
            if not row.background:
                raise BadRequest(
                    "Cannot cancel a synchronous response: only those with background are cancelled. To end a stream, "
                    "close its connection.",
                    param="response_id",
                    code="not_in_background",
                )
            if row.status in RUNNING:
                self._end(connection, tenant_id, response_id, {"status": "cancelled"})
            return response_of(get_response(connection, tenant_id, response_id))

        return self._database.transact(cancel)

    def delete(self, tenant_id: int, response_id: str) -> None:
        """Delete a response, whether it runs or not. NotFound when there is none. Blocks."""
        self._database.transact(lambda connection: delete_response(self._database, connection, tenant_id, response_id))

    def _append(self, connection: Connection, batch: EventBatch) -> bool:
        limits = self.limits
        return append_events(
            self._database,
            connection,
            batch,
            most_bytes=limits.most_bytes,
            most_tenant_bytes=limits.most_tenant_bytes,
        )

    def _end(
        self, connection: Connection, tenant_id: int, response_id: str, ended: Mapping[str, Any]
    ) -> Row[Any] | None:
        return end_response(
            self._database, connection, tenant_id, response_id, ended, most_bytes=self.limits.most_bytes
        )


def _first_events(tenant_id: int, plan: ResponsePlan) -> EventBatch:
    """With which a stream in the background begins before the engine has anything to say."""
    events = [{"type": f"response.{kind}", "response": plan.queued} for kind in FIRST_EVENTS]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return EventBatch(tenant_id, plan.id, 0, tuple(map(sent_event, numbered)))
