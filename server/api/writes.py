"""Writes over HTTP: each is one transaction with its line in the audit log and, if asked for, its idempotency key.

The answer to a write with an Idempotency-Key is stored by the transaction that did the write. However the server ends,
either both are there, and the same request again gets the same answer, or neither is, and the write is done then.

What is written is up to a function of the connection, which a route hands in:

    def do(connection: Connection) -> Answer: ...
    return write.run("tenant.create", name, do)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from sqlalchemy.engine import Connection
from starlette.responses import JSONResponse

from server.api.schemas.audit import ID_PREFIX
from server.core.clock import Clock, now
from server.core.idempotency import REPLAYED_HEADER
from server.core.ids import new_id
from server.core.principal import Principal
from server.db.database import Database
from server.db.idempotency import IdempotencyKey, claim_key, keep_answer
from server.db.tables import AUDIT_LOG


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, in which request. `idempotency_key` is None when the client sent none."""

    principal: Principal
    request_id: str = ""
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write answers: an HTTP status, a JSON body and headers.

    `detail` is for the audit log only, which has a line of the write if it `is_news`: if it changed anything.
    """

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    is_news: bool = True

    def response(self) -> JSONResponse:
        """The answer as it leaves."""
        return JSONResponse(dict(self.body), status_code=self.status, headers=dict(self.headers))


class AuditedWrites:
    """Runs writes on one database. Blocks: call it from worker threads. `clock` gives seconds since 1970."""

    def __init__(self, database: Database, *, clock: Clock = now) -> None:
        self._database = database
        self._clock = clock

    def run(
        self,
        author: Author,
        action: str,
        target: str,
        do: Callable[[Connection], Answer],
        *,
        fingerprint: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The answer of `do`, or the stored one when `author` has sent the same write before.

        `fingerprint` stands for the request's content. Raises UnprocessableEntity (422) when the key was used for
        another request, and whatever `do` raises, in which case nothing is stored and the key stays free. `do` may be
        called again, for a new transaction.
        """
        key: IdempotencyKey | None = None
        if author.idempotency_key is not None:
            digest = hashlib.sha256(json.dumps([action, target, fingerprint]).encode()).hexdigest()
            key = IdempotencyKey(author.principal.tenant.id, author.idempotency_key, digest)

        def once(connection: Connection) -> Answer:
            known = None if key is None else claim_key(self._database, connection, key, self._clock())
            if known is not None:
                headers = {**json.loads(known.headers), REPLAYED_HEADER: "true"}
                return Answer(json.loads(known.body), known.status, headers)
            answer = do(connection)
            if answer.is_news:
                connection.execute(
                    AUDIT_LOG.insert().values(
                        public_id=new_id(ID_PREFIX),
                        created_at=int(self._clock()),
                        tenant_id=author.principal.tenant.id,
                        key_id=author.principal.key_id,
                        action=action,
                        target=target,
                        request_id=author.request_id,
                        detail=json.dumps({**(detail or {}), **answer.detail}),
                    )
                )
            if key is not None:
                keep_answer(connection, key, answer.status, answer.body, answer.headers)
            return answer

        # `transact` and not `write`: when two writes wait for each other, PostgreSQL ends one, which is done again.
        return self._database.transact(once)


@dataclass(frozen=True, slots=True)
class RequestedWrite:
    """What one request asks to be written; `fingerprint` is of its path, query and body."""

    writes: AuditedWrites
    author: Author
    fingerprint: str

    @property
    def tenant_id(self) -> int:
        """Whose adapters, keys and so on are written."""
        return self.author.principal.tenant.id

    def run(
        self, action: str, target: str, do: Callable[[Connection], Answer], detail: Mapping[str, Any] | None = None
    ) -> JSONResponse:
        """The response to the request. As `AuditedWrites.run`."""
        answer = self.writes.run(self.author, action, target, do, fingerprint=self.fingerprint, detail=detail)
        return answer.response()


def fingerprint_of(request: Request, body: bytes) -> str:
    """For `AuditedWrites.run`: SHA-256 of method, path, query and `body`."""
    parts = (request.method, request.url.path, request.url.query)
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + body).hexdigest()
