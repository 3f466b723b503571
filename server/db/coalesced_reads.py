"""Reads of single rows from PostgreSQL, by a few connections of one event loop.

Reads that are asked for while all connections are busy are sent together, as one statement, as soon as a connection is
free: a busy server reads more rows per statement instead of queueing, an idle one waits for one round trip. A statement
starts after the reads in it were asked for, so it sees everything that was committed before.

It knows no tables: it is given a statement for one row, and asks it for many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any

import psycopg
from psycopg import AsyncConnection

from server.db.database import unavailable

CONNECTIONS = 2
MAX_BATCH = 500
TIMEOUT_S = 5.0
# Plans are made once, maybe while a table is empty; they must be right for a million rows too.
SETTINGS = "SET enable_seqscan = off"

Parameters = tuple[int | str, ...]
_Asked = tuple[Parameters, "asyncio.Future[Any]"]


class CoalescedReads:
    """Reads on one event loop. Connections are opened when first needed, and again after they broke."""

    def __init__(self, connection_parameters: Mapping[str, Any]) -> None:
        self._connection_parameters = connection_parameters
        self._waiting: dict[str, list[_Asked]] = {}
        self._idle: list[AsyncConnection[Any]] = []
        self._readers: set[asyncio.Task[None]] = set()
        self._busy = 0

    async def row(self, statement: str, parameters: Parameters) -> Any:
        """The row that `statement` finds, or None; it has {0}, {1}, ... where the parameters go.

        Raises Unavailable (503) when the database does not answer.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self._waiting and self._busy < CONNECTIONS:
            self._busy += 1
            reader = asyncio.create_task(self._read_what_waits())
            self._readers.add(reader)  # the loop itself does not keep a task alive
            reader.add_done_callback(self._readers.discard)
        self._waiting.setdefault(statement, []).append((parameters, answer))
        return await answer

    def close(self) -> None:
        """Close the connections, from whatever thread."""
        for connection in self._idle:
            connection.pgconn.finish()
        self._idle.clear()

    async def _read_what_waits(self) -> None:
        connection = self._idle.pop() if self._idle else None
        try:
            while self._waiting:
                statement = next(iter(self._waiting))
                asked = self._waiting.pop(statement)
                if len(asked) > MAX_BATCH:
                    self._waiting[statement] = asked[MAX_BATCH:]
                connection = await self._answer(connection, statement, asked[:MAX_BATCH])
        finally:
            self._busy -= 1
            if connection is not None:
                self._idle.append(connection)

    async def _answer(
        self, connection: AsyncConnection[Any] | None, statement: str, asked: list[_Asked]
    ) -> AsyncConnection[Any] | None:
        """Answer all of `asked`; returns the connection to go on with, None when it broke."""
        opened_before = connection is not None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection = connection or await self._connect()
                rows = await _rows(connection, statement, [parameters for parameters, _ in asked])
        # Whatever it is, nobody may be left waiting.
        except Exception as error:
            if connection is not None:
                connection.pgconn.finish()
            lost = isinstance(error, psycopg.OperationalError | TimeoutError)
            if lost and opened_before:  # as they are after the server was restarted; a new one that fails is an answer
                return await self._answer(None, statement, asked)
            _fail(asked, unavailable(error) if lost else error)
            return None
        for (_, answer), row in zip(asked, rows, strict=True):
            if not answer.done():  # it is, when the client left
                answer.set_result(row)
        return connection

    async def _connect(self) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(**self._connection_parameters, autocommit=True)
        await connection.execute(SETTINGS)
        return connection


def _fail(asked: Sequence[_Asked], error: Exception) -> None:
    for _, answer in asked:
        if not answer.done():
            # One of its own for each, as every waiter adds its traceback.
            answer.set_exception(copy(error))


async def _rows(connection: AsyncConnection[Any], statement: str, parameters: Sequence[Parameters]) -> list[Any]:
    """The row, or None, for each of `parameters`."""
    types = tuple("bigint" if isinstance(value, int) else "text" for value in parameters[0])
    columns = [list(column) for column in zip(*parameters, strict=True)]
    cursor = await connection.execute(_for_many(statement, types), columns, prepare=True, binary=True)
    found = {row[-1]: row[:-1] for row in await cursor.fetchall()}
    return [found.get(place) for place in range(1, len(parameters) + 1)]


@cache
def _for_many(statement: str, types: tuple[str, ...]) -> bytes:
    """`statement` for a row of parameters each. LATERAL and LIMIT make it a look-up by index for each of them."""
    names = [f"asked.p{number}" for number in range(len(types))]
    arrays = ", ".join(f"%s::{kind}[]" for kind in types)
    columns = ", ".join(name.removeprefix("asked.") for name in names)
    return (
        f"SELECT found.*, asked.place FROM unnest({arrays}) WITH ORDINALITY AS asked({columns}, place) "
        f"CROSS JOIN LATERAL ({statement.format(*names)} LIMIT 1) AS found"
    ).encode()
