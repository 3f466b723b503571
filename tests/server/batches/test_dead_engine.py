"""Lines of batches, and requests, to an engine that has died, with vLLM's own handlers of its errors."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.v1.engine.exceptions import EngineDeadError

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.batches.leases import MAX_ATTEMPTS
from server.core.settings import Settings
from server.db.database import Database
from server.engine.error_handlers import add_engine_error_handlers
from server.engine.output_watch import GivenBack
from tests.server.support.batch_kit import ended, line, make_batch, rows
from tests.server.support.fake_engine import BASE, ChatRequest, FakeEngine
from tests.server.support.served import served


class MortalEngine(FakeEngine):
    """Raises vLLM's error while it is not `alive`, and has died when it has read the word "poison". It gives "back"
    back, as one that was told to end does, and answers "slow" when it is not `busy`.
    """

    busy = False

    def mount(self, app: FastAPI) -> None:
        super().mount(app)
        app.state.args = Namespace(log_error_stack=False)
        app.state.server = app.state.engine_client = Namespace(errored=True, is_running=False)
        init_exception_handler(app)
        add_engine_error_handlers(app)

    async def _chat(self, request: ChatRequest, http: Request) -> Response:
        if request.messages[0]["content"] == "back":
            raise GivenBack
        self.alive = self.alive and request.messages[0]["content"] != "poison"
        if not self.alive:
            self.received.append(request)
            raise EngineDeadError
        while self.busy and request.messages[0]["content"] == "slow":
            await asyncio.sleep(0.02)
            if not self.alive:
                raise EngineDeadError
        return await super()._chat(request, http)


@pytest.fixture
def engine(factors: Factors) -> MortalEngine:
    return MortalEngine(factors)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_dead_engine_is_an_error_that_official_clients_send_again(openai_client: openai.OpenAI) -> None:
    for content, match, code in (
        ("back", "send this one again", "unavailable"),
        ("poison", "send the request again", "engine_unavailable"),
    ):
        messages: Any = [{"role": "user", "content": content}]
        with pytest.raises(openai.InternalServerError, match=match) as refused:
            openai_client.chat.completions.create(model=BASE, messages=messages)
        assert (refused.value.status_code, refused.value.code) == (503, code)
        assert refused.value.response.headers["retry-after"] == "5"


@contextmanager
def gateway(settings: Settings, engine: MortalEngine, database: Database) -> Iterator[openai.OpenAI]:
    """A client of one that ends in good order with the block."""
    app = create_app(settings, engine, database)
    with served(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        yield client


def test_lines_to_a_dead_engine_are_answered_by_the_next_gateway(
    settings: Settings, engine: MortalEngine, app_database: Database
) -> None:
    engine.alive = False
    with gateway(settings, engine, app_database) as client:
        made = make_batch(client, [line(str(number)) for number in range(20)])
        until(lambda: engine.received)
        time.sleep(3)  # a line that meets a defect is an error after 2 s
    engine.alive = True
    with gateway(settings, engine, app_database) as client:
        done = ended(client, made)
        assert (done.status, done.error_file_id) == ("completed", None)
        assert len(rows(client, done.output_file_id)) == 20


def test_a_line_of_which_engines_die_ends_its_batch_after_some_of_them(
    settings: Settings, engine: MortalEngine, app_database: Database
) -> None:
    with gateway(settings, engine, app_database) as client:
        made = make_batch(client, [line("poison")])
        until(lambda: not engine.alive)
    for _ in range(MAX_ATTEMPTS - 1):
        engine.alive = True
        with gateway(settings, engine, app_database):
            until(lambda: not engine.alive)
    engine.alive = True
    with gateway(settings, engine, app_database) as client:
        done = ended(client, made)
    assert done.status == "failed" and engine.alive


def test_a_batch_is_not_failed_for_the_line_of_another(
    settings: Settings, engine: MortalEngine, app_database: Database
) -> None:
    engine.busy = True
    with gateway(settings, engine, app_database) as client:
        poison, other = make_batch(client, [line("poison")]), make_batch(client, [line("slow")])
        until(lambda: not engine.alive)
        time.sleep(0.5)
    for _ in range(MAX_ATTEMPTS - 1):
        engine.alive = True
        with gateway(settings, engine, app_database):
            until(lambda: not engine.alive)
            time.sleep(0.5)  # in which the other would be taken, too
    engine.alive, engine.busy = True, False
    with gateway(settings, engine, app_database) as client:
        assert (ended(client, poison).status, ended(client, other).status) == ("failed", "completed")
