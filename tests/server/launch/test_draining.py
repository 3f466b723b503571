"""The end of the server, over raw connections: nothing that was sent before it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.launch.draining import DrainingServer
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass
class Running:
    """A server, with a route that streams until `release`, and one that answers then."""

    notice_s: float
    linger_s: float
    app: FastAPI = field(default_factory=FastAPI)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[DrainingServer]:
        self.app.get("/")(lambda: "here")

        @self.app.get("/stream")
        async def stream() -> StreamingResponse:
            async def chunks() -> AsyncIterator[str]:
                yield "first"
                await self.release.wait()
                yield "last"

            return StreamingResponse(chunks())

        @self.app.get("/wait")
        async def wait() -> str:
            self.asked.set()
            await self.release.wait()
            return "waited"

        listens = asyncio.Event()
        server = DrainingServer(
            uvicorn.Config(self.app, port=0, log_level="warning", access_log=False, lifespan="off"),
            on_listening=listens.set,
            on_draining=self.draining.set,
            background=int,
            notice_s=self.notice_s,
            linger_s=self.linger_s,
        )
        serving = asyncio.create_task(server.serve())
        await listens.wait()
        self.port = server.servers[0].sockets[0].getsockname()[1]
        async with asyncio.timeout(60):
            yield server
            await serving

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def refuses(self) -> None:
        """Returns when it takes no more connections."""
        while True:
            try:
                _, writer = await self.connect()
            except (ConnectionRefusedError, ConnectionResetError):  # reset: it was about to be taken
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_during_the_notice_everything_is_answered_and_connections_are_closed() -> None:
    running = Running(notice_s=60, linger_s=0)
    async with running.listening() as server:
        before, to_before = await running.connect()
        to_before.write(GET)
        assert b"connection: close" not in await before.readuntil(b"\r\n\r\n")
        assert await before.readexactly(6) == b'"here"'
        server.stop()
        await running.draining.wait()
        new, to_new = await running.connect()
        for reader, writer in ((before, to_before), (new, to_new)):
            writer.write(GET)
            answer = await reader.read()  # to the end of the connection
            assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer and b'"here"' in answer
        server.stop()


async def test_an_answer_that_was_asked_for_before_the_notice_closes_its_connection() -> None:
    running = Running(notice_s=60, linger_s=0)
    async with running.listening() as server:
        reader, writer = await running.connect()
        writer.write(WAIT)
        await running.asked.wait()
        server.stop()
        await running.draining.wait()
        running.release.set()
        answer = await reader.read()
        assert b"connection: close" in answer and answer.endswith(b'"waited"')
        server.stop()


async def test_who_has_just_connected_is_answered_behind_the_notice() -> None:
    running = Running(notice_s=0.01, linger_s=60)
    async with running.listening() as server:
        reader, writer = await running.connect()
        server.stop()
        await running.refuses()
        writer.write(GET)
        assert (await reader.read()).endswith(b'"here"')
        server.stop()


async def test_a_stream_ends_whole_and_idle_connections_do_not_hold_the_end_up() -> None:
    running = Running(notice_s=0, linger_s=60)
    async with running.listening() as server:
        idle, _ = await running.connect()
        reader, writer = await running.connect()
        writer.write(STREAM)
        await reader.readuntil(b"first")
        server.stop()
        assert await idle.read() == b""
        running.release.set()
        assert b"last" in await reader.read()


async def test_a_second_stop_ends_at_once() -> None:
    running = Running(notice_s=60, linger_s=60)
    async with running.listening() as server:
        reader, writer = await running.connect()
        writer.write(STREAM)
        await reader.readuntil(b"first")
        server.stop()
        server.stop()
    running.release.set()


async def test_an_end_that_nobody_asked_for_has_no_notice() -> None:
    running = Running(notice_s=60, linger_s=60)
    async with running.listening() as server:
        server.should_exit = True  # as vLLM does when its engine has died
        await running.refuses()


async def started(app: FastAPI, patience_s: float) -> tuple[DrainingServer, asyncio.Task[None], str]:
    """A server of a gateway's app without a notice, the task that serves, and the URL of its API."""
    listens = asyncio.Event()
    # uvicorn takes any number, and says that it takes whole ones.
    config = uvicorn.Config(app, port=0, log_level="critical", access_log=False)
    config.timeout_graceful_shutdown = patience_s  # type: ignore[assignment]
    server = DrainingServer(
        config,
        on_listening=listens.set,
        on_draining=app.state.gateway.draining.set,
        background=app.state.gateway.responses.running_in_background,
        notice_s=0,
    )
    serving = asyncio.create_task(server.serve())
    await listens.wait()
    return server, serving, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"


@pytest.mark.parametrize(("patience_s", "status"), [(60, "completed"), (1, "failed")])
async def test_a_background_response_has_as_long_to_end_as_other_answers(
    settings: Settings, engine: FakeEngine, app_database: Database, patience_s: int, status: str
) -> None:
    engine.hold = asyncio.Event()
    app = create_app(settings, engine, app_database)
    server, serving, url = await started(app, patience_s)
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        response = await client.responses.create(model=BASE, input="one", background=True)
    server.stop()
    await asyncio.to_thread(app.state.gateway.draining.wait)
    await asyncio.wait({serving}, timeout=0.6 if status == "completed" else 30)
    assert serving.done() == (status == "failed")
    engine.hold.set()
    async with asyncio.timeout(30):
        await serving
    async with client_of(create_app(settings, engine, app_database)) as another:
        kept = await another.get(f"/v1/responses/{response.id}")
    assert kept.json()["status"] == status
    if status == "failed":
        assert kept.json()["error"]["message"] == "The server that ran this response was stopped. Send it again."


async def test_answers_that_the_end_cuts_are_503_in_the_shape_of_their_api(
    settings: Settings, engine: FakeEngine, app_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.hold = asyncio.Event()
    server, serving, url = await started(create_app(settings, engine, app_database), 0.2)
    ask: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": "one"}], "max_tokens": 5}
    async with httpx.AsyncClient() as client:
        asked = [asyncio.create_task(client.post(url + path, json=ask)) for path in ("/chat/completions", "/messages")]
        while len(engine.heard) < 2:
            await asyncio.sleep(0.01)
        server.stop()
        openais, anthropics = await asyncio.gather(*asked)
    for answer in (openais, anthropics):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "took longer than it waits for" in answer.json()["error"]["message"]
    assert openais.json()["error"]["code"] == "draining"
    assert anthropics.json()["type"] == "error"
    async with asyncio.timeout(30):
        await serving
    told = capsys.readouterr()
    assert told.out.count("the end of the server cuts an answer") == 2
    assert "Traceback" not in told.out + told.err
