"""At the start: secrets that are in the database are stored as new ones are, sealed with the operator's first key.

So a key that is set later, or replaced, is soon that of all of them. Several gateways may do it at once: whatever they
write stands for the same secrets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from server.core.errors import ApiError
from server.db.database import Database
from server.endpoints.webhook_secrets import WebhookSecrets
from server.endpoints.webhooks import renew_webhook_secrets
from server.training.jobs.method_secrets import renew_job_secrets


@asynccontextmanager
async def secrets_sealed_anew(database: Database, secrets: WebhookSecrets) -> AsyncIterator[None]:
    """Does so before the block. A server whose database does not answer starts all the same."""

    def renew() -> int:
        # One after the other, for whoever ends a job locks it, and then the webhooks that are told of it.
        jobs = database.transact(lambda connection: renew_job_secrets(connection, secrets.seals))
        return jobs + database.transact(lambda connection: renew_webhook_secrets(connection, secrets))

    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    try:
        if unreadable := await run_in_threadpool(renew):
            log.error("secrets cannot be read: TINYLORA_SECRETS_KEY lacks the key that sealed them", secrets=unreadable)
    except (ApiError, sa.exc.SQLAlchemyError) as error:
        log.error("secrets not sealed anew, tried again at the next start", error=str(error))
    yield
