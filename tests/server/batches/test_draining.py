"""A gateway that ends asks no more lines of its batches, and another one goes on with them."""

from __future__ import annotations

import time

import openai

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.batch_kit import ended, line, make_batch, rows
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.served import served

LINES = 50


def test_every_line_is_asked_once_and_most_of_the_other_gateway(
    settings: Settings, factors: Factors, app_database: Database
) -> None:
    first, second = FakeEngine(factors), FakeEngine(factors)
    first.chunk_s = 0.1
    ending, staying = (create_app(settings, engine, app_database) for engine in (first, second))
    with served(ending) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        made = make_batch(client, [line(str(number)) for number in range(LINES)])
        end = time.monotonic() + 60
        while len(first.received) < 5:
            assert time.monotonic() < end
            time.sleep(0.02)
        ending.state.gateway.draining.set()
        with served(staying) as other, openai.OpenAI(base_url=f"{other}/v1", api_key="unused") as asking:
            done = ended(asking, made)
            answers = rows(asking, done.output_file_id)
    assert (done.status, len(answers)) == ("completed", LINES)
    # Those that were being asked were answered.
    assert len(first.received) + len(second.received) == LINES
    assert len(first.received) < LINES / 2
