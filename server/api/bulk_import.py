"""Storing many adapters, in batches of one transaction each and with an outcome for every item.

A batch is a write like any other (writes.py), so with an Idempotency-Key every batch of a body is done once: an import
that broke off is sent again whole, under the same key, and goes on where it ended. An item that cannot be stored does
not stop the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.engine import Connection

from server.api.writes import Answer, AuditedWrites, Author
from server.core.error_responses import error_object
from server.core.errors import ApiError
from server.db.database import Database
from server.registry.bulk_items import Item, Rejected
from server.registry.creation import NewVersion, create_versions, drop_without_versions, lock_adapters
from server.registry.versions import Entry


@dataclass(frozen=True, slots=True)
class BulkImport:
    """One body's items on their way into the registry. Blocks: call it from worker threads."""

    writes: AuditedWrites
    database: Database
    author: Author

    def store(self, batch_number: int, first_index: int, items: Sequence[Item]) -> list[dict[str, Any]]:
        """The outcome of every item, in order: {"index", "name", "version"} or {"index", "name", "error"}.

        `batch_number` counts the batches of the body; the same body must be cut into the same batches.
        """

        def do(connection: Connection) -> Answer:
            created = iter(self._create(connection, [item for item in items if isinstance(item, NewVersion)]))
            outcomes = [_rejected(item) if isinstance(item, Rejected) else next(created) for item in items]
            stored = sum("version" in outcome for outcome in outcomes)
            detail = {"stored": stored, "rejected": len(items) - stored}
            return Answer({"outcomes": outcomes}, detail=detail, is_news=stored > 0)

        answer = self.writes.run(
            self._author_of_batch(batch_number),
            "adapter.bulk_create",
            f"{len(items)} adapters",
            do,
            # Of use to an idempotency key only, and of so many items a noticeable part of the work.
            fingerprint="" if self.author.idempotency_key is None else _fingerprint(items),
        )
        return [{"index": first_index + number, **outcome} for number, outcome in enumerate(answer.body["outcomes"])]

    def _create(self, connection: Connection, items: Sequence[NewVersion]) -> list[dict[str, Any]]:
        tenant_id = self.author.principal.tenant.id
        try:
            with connection.begin_nested():
                entries = create_versions(self.database, connection, tenant_id, items)
            return [_outcome(entry) for entry in entries]
        except ApiError:
            # One of them is refused, the tenant's limit being reached: only one by one shows which. All are locked
            # before, since the first new one locks the tenant's row, behind which no adapters may be locked.
            rows = lock_adapters(self.database, connection, tenant_id, {item.name for item in items})
            outcomes = [self._create_one(connection, tenant_id, item) for item in items]
            drop_without_versions(connection, rows.values())
            return outcomes

    def _create_one(self, connection: Connection, tenant_id: int, item: NewVersion) -> dict[str, Any]:
        try:
            with connection.begin_nested():
                [entry] = create_versions(self.database, connection, tenant_id, [item])
        except ApiError as error:
            return _rejected(Rejected(item.name, error))
        return _outcome(entry)

    def _author_of_batch(self, batch_number: int) -> Author:
        key = self.author.idempotency_key
        if key is None:
            return self.author
        return replace(self.author, idempotency_key=f"{hashlib.sha256(key.encode()).hexdigest()}:{batch_number}")


def _outcome(entry: Entry) -> dict[str, Any]:
    return {"name": entry.stored.name, "version": entry.stored.version}


def _rejected(item: Rejected) -> dict[str, Any]:
    return {"name": item.name, "error": error_object(item.error)}


def _fingerprint(items: Sequence[Item]) -> str:
    """SHA-256 of what is to be stored."""

    def content_of(item: Item) -> list[Any]:
        if isinstance(item, Rejected):
            return [item.name, item.error.message]
        return [item.name, item.adapter.digest, dict(item.metadata)]

    content = [content_of(item) for item in items]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
