"""Kills a gateway again and again in the middle of uploads, and counts what the database holds in the end.

    python -m tests.server.support.kill --database postgresql --kills 20 --uploads 10000

Design decision: the clients keep the books. Every upload has content of its own. With an Idempotency-Key it is tried
until it is acknowledged, without one it is tried once; so for each it is known what must be there, and what may be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import sqlalchemy as sa

from server.db.database import Database
from server.db.tables import ADAPTER_VERSIONS, ADAPTERS, AUDIT_LOG, IDEMPOTENCY_KEYS, TENANTS
from tests.postgres import running_server
from tests.server.support.serve_fake import GatewayProcess, gateway_processes

CLIENTS = 8
NAMES = 40
READY_AHEAD = 2


@dataclass
class Books:
    """What the clients know. Keys are the numbers of uploads, values what was answered: (name, version)."""

    acknowledged: dict[int, tuple[str, int]] = field(default_factory=dict)
    unanswered: Counter[int] = field(default_factory=Counter)  # how often
    replayed: int = 0  # sent again, and it turned out that the first time had been stored
    kills: int = 0

    def summary(self) -> str:
        retried = sum(1 for number in self.unanswered if number in self.acknowledged)
        return (
            f"{len(self.acknowledged)} uploads acknowledged over {self.kills} kills; {len(self.unanswered)} were cut, "
            f"of which {retried} were sent again with their key ({self.replayed} had been stored the first time)"
        )


def vector(number: int) -> bytes:
    """13 numbers in float32 that no other upload has."""
    return struct.pack("<13f", *((number + place) / 2**14 for place in range(13)))


def key(number: int) -> str | None:
    """The Idempotency-Key, which every second upload has."""
    return f"upload-{number}" if number % 2 else None


def name(number: int) -> str:
    return f"acme/n{number * 7919 % NAMES}"


OWN_NAMES = {name(number) for number in range(NAMES)}


class Run:
    """`uploads` uploads by a few clients at once, with `kills` kills spread over them."""

    def __init__(self, database_url: str, *, kills: int, uploads: int, seed: int) -> None:
        self._database_url = database_url
        self._uploads = uploads
        self._random = random.Random(seed)
        evenly = [uploads * (number + 1) // (kills + 1) for number in range(kills)]
        self._kill_at = [max(1, at + self._random.randint(-20, 20)) for at in evenly]
        self._url = ""
        self._served = asyncio.Event()
        self.books = Books()

    async def go(self) -> Books:
        numbers = iter(range(self._uploads))
        with contextlib.ExitStack() as stack:
            ready = stack.enter_context(gateway_processes(READY_AHEAD))
            await self._serve(ready[0])
            async with asyncio.TaskGroup() as running:
                for _ in range(CLIENTS):
                    running.create_task(self._client(numbers))
                for at in self._kill_at:
                    while len(self.books.acknowledged) < at:
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(self._random.uniform(0, 0.02))
                    self._served.clear()
                    ready.pop(0).kill()
                    self.books.kills += 1
                    ready.append(GatewayProcess())
                    await self._serve(ready[0])
        return self.books

    async def _serve(self, process: GatewayProcess) -> None:
        self._url = await asyncio.to_thread(process.serve, self._database_url)
        self._served.set()

    async def _client(self, numbers: Iterator[int]) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for number in numbers:
                while not await self._upload(client, number) and key(number):
                    pass

    async def _upload(self, client: httpx.AsyncClient, number: int) -> bool:
        await self._served.wait()
        return await upload(client, self._url, number, self.books)


async def upload(client: httpx.AsyncClient, url: str, number: int, books: Books) -> bool:
    """Whether it was acknowledged. A proxy's 502 is no more than a connection that broke."""
    headers = {"content-type": "application/octet-stream"}
    if (idempotency_key := key(number)) is not None:
        headers["idempotency-key"] = idempotency_key
    try:
        response = await client.post(
            f"{url}/v1/adapters",
            params={"name": name(number), "dtype": "float32"},
            content=vector(number),
            headers=headers,
        )
    except httpx.TransportError:
        response = None
    if response is None or response.status_code == 502:
        books.unanswered[number] += 1
        return False
    assert response.status_code == 201, response.text
    books.replayed += response.headers.get("idempotent-replayed") == "true"
    stored = response.json()
    books.acknowledged[number] = (stored["name"], stored["version"])
    return True


def check(database_url: str, books: Books, uploads: int) -> str:
    """Compare the database with the books; returns a sentence, raises AssertionError where they differ.

    Adapters of other names, and other keys, are left out of it.
    """
    database = Database(database_url)
    with database.read() as connection:
        rows = connection.execute(
            sa.select(ADAPTERS.c.name, ADAPTERS.c.last_version, ADAPTERS.c.latest_version, ADAPTER_VERSIONS)
            .join_from(ADAPTER_VERSIONS, ADAPTERS, ADAPTERS.c.id == ADAPTER_VERSIONS.c.adapter_id)
            .where(ADAPTERS.c.name.in_(OWN_NAMES))
        ).all()
        adapters = connection.execute(sa.select(ADAPTERS.c.name)).scalars().all()
        targets = sa.select(AUDIT_LOG.c.target).where(AUDIT_LOG.c.target.in_(OWN_NAMES))
        audited = Counter(connection.execute(targets).scalars())
        statuses = sa.select(IDEMPOTENCY_KEYS.c.key, IDEMPOTENCY_KEYS.c.status)
        keys = connection.execute(statuses.where(IDEMPOTENCY_KEYS.c.key.like("upload-%"))).all()
        count = connection.execute(sa.select(TENANTS.c.adapter_count)).scalar_one()
    database.close()

    given = Counter(books.acknowledged.values())
    assert max(given.values()) == 1, f"numbers given twice: {[id for id, times in given.items() if times > 1]}"
    stored = {(row.name, row.version): row for row in rows}
    for number, (adapter, version) in books.acknowledged.items():
        row = stored.get((adapter, version))
        assert row is not None, f"upload {number} was acknowledged as {adapter}@{version} and is not there"
        assert row.data == vector(number) and adapter == name(number), f"{adapter}@{version} holds something else"
    number_of = {vector(number): number for number in range(uploads)}
    times_stored = Counter(number_of[row.data] for row in rows)  # KeyError: bytes that nobody sent
    assert max(times_stored.values()) == 1, "an upload made several versions"
    assert set(books.acknowledged) <= set(times_stored)
    extra = set(times_stored) - set(books.acknowledged)
    assert all(books.unanswered[number] == 1 and key(number) is None for number in extra), "versions of unsent uploads"

    versions = Counter(row.name for row in rows)
    assert set(versions) == set(adapters) & OWN_NAMES, "an adapter without versions"
    assert all(row.last_version == row.latest_version == versions[row.name] for row in rows), "numbers are not 1, 2, 3"
    assert audited == versions, "the audit log differs from the versions"
    assert {(key(number), 201) for number in times_stored if key(number)} == {tuple(row) for row in keys}
    assert count == len(adapters)
    cut = len(books.unanswered) - sum(1 for number in books.unanswered if number in books.acknowledged)
    return f"all of them there, once each; of {cut} others that were cut, {len(extra)} had been stored, whole"


async def kill_and_check(database_url: str, *, kills: int, uploads: int, seed: int = 0) -> tuple[Books, str]:
    """A run and its check."""
    books = await Run(database_url, kills=kills, uploads=uploads, seed=seed).go()
    return books, check(database_url, books, uploads)


@contextlib.contextmanager
def new_database(kind: str) -> Iterator[str]:
    """The URL of a new database."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{directory}/tinylora.db"
        return
    with running_server() as server:
        yield server.url(server.new_database())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    with new_database(args.database) as url:
        books, verdict = asyncio.run(kill_and_check(url, kills=args.kills, uploads=args.uploads, seed=args.seed))
    print(f"{args.database}: {books.summary()}; {verdict} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
