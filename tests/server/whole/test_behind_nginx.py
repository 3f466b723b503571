"""Two gateways on one PostgreSQL behind the real nginx: one is killed under load, all are replaced under load."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.postgres import PostgresServer
from tests.server.support.fake_engine import BASE
from tests.server.support.kill import Books, check, key, upload
from tests.server.support.nginx import free_port, running_nginx
from tests.server.support.serve_fake import CHUNK_VARIABLE, GatewayProcess
from tinylora_client import AsyncTinyLoRA

pytestmark = pytest.mark.slow

ENVIRONMENT = {CHUNK_VARIABLE: "0.05"}
CLIENTS = 6
MOST_KILLS = 5


@dataclass
class Fleet:
    """Two gateways behind nginx, each on a port of its own; `next` are processes that are ready to follow them."""

    database_url: str
    ports: list[int]
    running: list[GatewayProcess]
    next: list[GatewayProcess]
    url: str = ""

    async def start(self, place: int) -> None:
        """A gateway in place of one that has ended, when it is ready."""
        self.running[place] = self.next.pop()
        await asyncio.to_thread(self.running[place].serve, self.database_url, self.ports[place])
        async with httpx.AsyncClient() as http:
            (await http.get(self.own_url(place) + "/ready")).raise_for_status()

    def own_url(self, place: int) -> str:
        """That of a gateway, without nginx."""
        return f"http://127.0.0.1:{self.ports[place]}"

    def client(self) -> AsyncTinyLoRA:
        """Ours, with the defaults of the official one, through nginx."""
        return AsyncTinyLoRA(base_url=self.url)


@pytest.fixture(scope="module")
def fleet(
    postgres: PostgresServer, migrated_postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    database = postgres.new_database(migrated_postgres)
    with ExitStack() as stack:
        stack.callback(postgres.drop, database)
        processes = [GatewayProcess(ENVIRONMENT) for _ in range(5)]
        for process in processes:
            stack.callback(process.stop)
        ports = [free_port(), free_port()]
        made = Fleet(postgres.url(database), ports, processes[:2], processes[2:])
        for process, port in zip(made.running, ports, strict=True):
            process.serve(made.database_url, port)
        gateways = [f"127.0.0.1:{port}" for port in ports]
        made.url = stack.enter_context(running_nginx(gateways, tmp_path_factory.mktemp("nginx")))
        yield made


@dataclass
class Load:
    """Streams and uploads through nginx until the block ends; what went wrong with them."""

    fleet: Fleet
    books: Books = field(default_factory=Books)
    streams: int = 0
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    ending: bool = False

    @asynccontextmanager
    async def running(self, *clients: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(self._until_the_end(client))
            yield
            self.ending = True

    async def _until_the_end(self, client: Callable[[], Awaitable[None]]) -> None:
        while not self.ending:
            await client()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not done():
                await asyncio.sleep(0.01)

    async def more_streams(self) -> None:
        at_least = self.streams + CLIENTS
        await self.until(lambda: self.streams >= at_least)


def uploading(load: Load, numbers: Iterator[int]) -> Callable[[], Awaitable[None]]:
    async def client() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            while not load.ending:
                number = next(numbers)
                while not await upload(http, load.fleet.url, number, load.books) and key(number):
                    await asyncio.sleep(0.01)

    return client


def streaming(load: Load) -> Callable[[], Awaitable[None]]:
    """Streams of 14 chunks, which take 0.7 s; each must be whole."""
    vector = [number / 128 for number in range(13)]

    async def client() -> None:
        async with load.fleet.client() as tinylora:
            while not load.ending:
                stream = await tinylora.chat.completions.create(
                    model=BASE, messages=[{"role": "user", "content": "?"}], stream=True, adapter="acme/streamed"
                )
                said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                if said.strip() != f"acme/streamed@1: {vector}":
                    load.wrong.append(said)
                load.streams += 1

    return client


def asking(load: Load) -> Callable[[], Awaitable[None]]:
    async def client() -> None:
        async with load.fleet.client() as tinylora:
            while not load.ending:
                answer = await tinylora.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "?"}])
                assert answer.choices[0].message.content == "base"
                load.answers += 1

    return client


async def upload_streamed(fleet: Fleet) -> None:
    data = struct.pack("<13f", *(number / 128 for number in range(13)))
    async with fleet.client() as tinylora:
        await tinylora.adapters.upload("acme/streamed", data, dtype="float32")


async def test_an_upload_through_one_gateway_is_used_through_the_other_at_once(fleet: Fleet) -> None:
    pairs = []
    async with httpx.AsyncClient(base_url=fleet.url) as http:
        for number in range(40):
            data = struct.pack("<13f", *[number / 64] * 13)
            headers = {"content-type": "application/octet-stream"}
            stored = await http.post("/v1/adapters?name=acme/both&dtype=float32", content=data, headers=headers)
            assert stored.status_code == 201, stored.text
            body = {"messages": [{"role": "user", "content": "?"}], "adapter": "acme/both"}
            answer = await http.post("/v1/chat/completions", json=body)
            said = answer.json()["choices"][0]["message"]["content"]
            assert said == f"acme/both@{number + 1}: {[number / 64] * 13}"
            pairs.append((stored.headers["x-upstream"], answer.headers["x-upstream"]))
        assert (await http.get("/metrics")).status_code == 404
    assert [used for stored_by, used in pairs if used != stored_by], "nginx asked one gateway alone"


async def test_a_killed_gateway_loses_no_acknowledged_upload_and_requests_go_to_the_other(fleet: Fleet) -> None:
    load = Load(fleet)
    numbers = itertools.count()
    clients = [*(uploading(load, numbers) for _ in range(CLIENTS)), asking(load), asking(load)]
    async with load.running(*clients):
        # A kill may come between two uploads of this gateway, and hit none.
        while not load.books.unanswered and load.books.kills < MOST_KILLS:
            begun = len(load.books.acknowledged)
            await load.until(lambda begun=begun: len(load.books.acknowledged) >= begun + 100)
            fleet.running[0].kill()
            load.books.kills += 1
            before = len(load.books.acknowledged), load.answers
            # From one gateway alone.
            await load.until(
                lambda before=before: len(load.books.acknowledged) >= before[0] + 100 and load.answers >= before[1] + 20
            )
            await fleet.start(0)
    assert load.books.unanswered, "no kill hit anything"
    check(fleet.database_url, load.books, next(numbers))


async def test_replacing_one_gateway_after_the_other_drops_no_stream(fleet: Fleet) -> None:
    await upload_streamed(fleet)
    load = Load(fleet)
    async with load.running(*(streaming(load) for _ in range(CLIENTS)), asking(load), asking(load)):
        for place in (0, 1):
            await load.more_streams()
            old = fleet.running[place]
            old.terminate()
            async with httpx.AsyncClient(base_url=fleet.own_url(place)) as http:
                # The signal has to arrive first.
                async with asyncio.timeout(30):
                    while (ready := await http.get("/ready")).status_code == httpx.codes.OK:
                        await asyncio.sleep(0.01)
                assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
                assert ready.headers["connection"] == "close"
                assert (await http.get("/health")).status_code == 200
            assert await asyncio.to_thread(old.wait) == 0
            await fleet.start(place)
        await load.more_streams()
    assert load.wrong == []
