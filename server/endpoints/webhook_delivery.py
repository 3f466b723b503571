"""Tells endpoints of events, each in the order of its queue; every gateway looks now and then whom to tell.

Who takes an endpoint moves the time at which it is told next behind the longest that this may last. If the gateway dies
meanwhile, another one goes on then. So an endpoint may be told an event twice, which it knows by the id, and is never
told by two gateways at once.

An attempt fails when there is no answer with 2xx within 15 seconds. The endpoint is tried again after 5 seconds, then
after four times as long each, at most six hours, or as soon as it gets another URL or secret or answers a test; an
event that waits for a day and a half is given up.

Design decision: what is tried again later is the endpoint, not each event. One that is away costs one attempt, however
many events wait for it, and holds up nobody else's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row
from starlette.concurrency import run_in_threadpool

from server.core.background import repeating
from server.core.clock import now
from server.core.errors import ApiError
from server.core.seals import CannotOpen
from server.db.database import Database
from server.db.webhook_tables import WEBHOOK_DELIVERIES, WEBHOOK_ENDPOINTS
from server.endpoints.endpoint_client import EndpointClient, EndpointFailed, signature
from server.endpoints.guarded_network import NotAllowed
from server.endpoints.webhook_secrets import WebhookSecrets

TIMEOUT_S = 15.0
# No event is begun after so long; the lease is longer than that and an attempt.
TOLD_FOR_S = 30.0
LEASE_S = 60
EVENTS_AT_ONCE = 100
ENDPOINTS_AT_ONCE = 64
FIRST_DELAY_S = 5.0
MAX_DELAY_S = 6 * 3600.0
MAX_AGE_S = 36 * 3600
EVERY_S = 2.0
END_S = 5.0
MAX_ERROR_CHARS = 500


class WebhookDelivery:
    """Deliveries of one gateway, on one event loop. `client` is None where the operator allows no endpoints."""

    def __init__(self, database: Database, client: EndpointClient | None, secrets: WebhookSecrets) -> None:
        self.secrets = secrets
        self._database = database
        self._client = client
        self._telling: set[asyncio.Task[None]] = set()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    @asynccontextmanager
    async def running(self, every_s: float = EVERY_S) -> AsyncIterator[None]:
        """Delivers what is due while the block runs."""
        try:
            async with repeating(self.deliver_due, first_s=every_s, every_s=every_s):
                yield
        finally:
            await self.told(END_S)
            if self._client is not None:
                await self._client.close()

    def check(self, url: str) -> None:
        """NotAllowed for a `url` that would not be asked, as far as that is known without resolving its name."""
        if self._client is None:
            raise NotAllowed("this server's operator allows no endpoints (TINYLORA_ENDPOINT_HOSTS)")
        self._client.check(url)

    async def send(self, endpoint: Row[Any], event_id: str, body: str) -> int:
        """Tell an endpoint of an event, once; the status of its answer. EndpointFailed when there is none."""
        if self._client is None:
            raise EndpointFailed("this server's operator allows no endpoints (TINYLORA_ENDPOINT_HOSTS)")
        content = body.encode()
        try:
            headers = self._signed(endpoint, event_id, content)
        except CannotOpen as error:
            raise EndpointFailed(error.message) from error
        return await self._client.tell(endpoint.url, headers, content, TIMEOUT_S)

    async def deliver_due(self, _ended: asyncio.Event) -> None:
        """Begin to tell the endpoints whose time has come. What the database refuses stays until later."""
        try:
            most = ENDPOINTS_AT_ONCE - len(self._telling)
            due = await run_in_threadpool(self._database.transact, lambda connection: take_due(connection, most))
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            self._log.error("webhooks not delivered, tried again soon", error=str(error))
            return
        for endpoint, events in due:
            task = asyncio.create_task(self._tell(endpoint, events), name=endpoint.id)
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def told(self, timeout_s: float | None = None) -> None:
        """Wait until nobody is being told."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=timeout_s)

    async def _tell(self, endpoint: Row[Any], events: list[Row[Any]]) -> None:
        """Tell an endpoint of `events` until one of them fails."""
        error: str | None = None
        told: list[str] = []
        until = asyncio.get_running_loop().time() + TOLD_FOR_S
        for event in events:
            error = await self._why_not_told(endpoint, event)
            if error is not None:
                self._log.warning("webhook not delivered", endpoint=endpoint.id, event_id=event.event_id, why=error)
                break
            told.append(event.event_id)
            if asyncio.get_running_loop().time() > until:
                break
        try:
            await run_in_threadpool(
                self._database.transact, lambda connection: settle(connection, endpoint.id, told, error)
            )
        except (ApiError, sa.exc.SQLAlchemyError) as lost:
            self._log.error("what became of webhooks not stored, told again later", reason=str(lost))

    async def _why_not_told(self, endpoint: Row[Any], event: Row[Any]) -> str | None:
        try:
            status = await self.send(endpoint, event.event_id, event.body)
        except EndpointFailed as error:
            return str(error)
        return None if 200 <= status < 300 else f"the endpoint answered with status {status}"

    def _signed(self, endpoint: Row[Any], event_id: str, content: bytes) -> dict[str, str]:
        at = now()
        headers = signature(self.secrets.secret(endpoint), event_id, at, content)
        if endpoint.old_seed_until is not None and endpoint.old_seed_until > at:
            # One that cannot be read is why there is another, which signs alone.
            with suppress(CannotOpen):
                old = signature(self.secrets.old_secret(endpoint), event_id, at, content)
                headers["webhook-signature"] += f" {old['webhook-signature']}" if "webhook-signature" in old else ""
        return headers


def take_due(connection: Connection, most: int) -> list[tuple[Row[Any], list[Row[Any]]]]:
    """At most so many endpoints whose time has come, with what they are to be told, oldest first.

    Nobody else gets them before LEASE_S seconds have passed, or they are settled.
    """
    endpoints = WEBHOOK_ENDPOINTS.c
    due = sa.select(WEBHOOK_ENDPOINTS).where(endpoints.next_at <= now()).order_by(endpoints.next_at).limit(most)
    taken = []
    for endpoint in connection.execute(due.with_for_update(skip_locked=True)).all():
        change = WEBHOOK_ENDPOINTS.update().where(endpoints.id == endpoint.id)
        connection.execute(change.values(next_at=now() + LEASE_S))
        waiting = sa.select(WEBHOOK_DELIVERIES).where(WEBHOOK_DELIVERIES.c.endpoint_id == endpoint.id)
        events = waiting.order_by(WEBHOOK_DELIVERIES.c.event_id).limit(EVENTS_AT_ONCE)
        taken.append((endpoint, list(connection.execute(events).all())))
    return taken


def settle(connection: Connection, endpoint_id: str, told: list[str], error: str | None) -> None:
    """An endpoint was `told` of these events, and then there was an `error`, or none."""
    endpoints, deliveries = WEBHOOK_ENDPOINTS.c, WEBHOOK_DELIVERIES.c
    # Locked first: what is announced to it is there, or comes when this is done.
    wanted = sa.select(WEBHOOK_ENDPOINTS).where(endpoints.id == endpoint_id).with_for_update()
    endpoint = connection.execute(wanted).one_or_none()
    if endpoint is None:
        return
    of_endpoint = deliveries.endpoint_id == endpoint_id
    done: sa.ColumnElement[bool] = deliveries.event_id.in_(told)
    if error is not None:
        done = sa.or_(done, deliveries.created_at < now() - MAX_AGE_S)
    connection.execute(WEBHOOK_DELIVERIES.delete().where(of_endpoint, done))
    seen: dict[str, Any] = {"failures": 0, "next_at": now()}
    if told:
        seen["delivered_at"] = now()
    if error is not None:
        failures = 1 if told else endpoint.failures + 1
        later = now() + round(delay_s(failures))
        seen |= {"failures": failures, "next_at": later, "failed_at": now(), "error": error[:MAX_ERROR_CHARS]}
    if connection.execute(sa.select(deliveries.event_id).where(of_endpoint).limit(1)).scalar() is None:
        seen["next_at"] = None
    connection.execute(WEBHOOK_ENDPOINTS.update().where(endpoints.id == endpoint_id).values(**seen))


def soon() -> dict[str, Any]:
    """The columns of an endpoint that was mended: what waits for it is told now, not after the delay of its failures.

    One that is due within a lease is left to it, since a gateway may be telling it.
    """
    at = now()
    next_at = sa.case((WEBHOOK_ENDPOINTS.c.next_at > at + LEASE_S, at), else_=WEBHOOK_ENDPOINTS.c.next_at)
    return {"failures": 0, "next_at": next_at}


def delay_s(failures: int) -> float:
    """How long after so many failures in a row, from 1, an endpoint is tried again; not all at the same time."""
    return min(FIRST_DELAY_S * 4.0 ** min(failures - 1, 12), MAX_DELAY_S) * random.uniform(0.9, 1.1)
