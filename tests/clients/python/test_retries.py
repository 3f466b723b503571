"""An answer that is lost on its way: the call is repeated by itself, and what it asked for is done once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.clients.python.conftest import Connect
from tests.server.support.fake_engine import BASE
from tests.server.support.training_kit import REINFORCEMENT, ROWS


class LosingAnswers(httpx2.BaseTransport):
    """Has every write done, and loses the first answer to it."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        self._real = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._real.handle_request(request)
        if not self.loses(request):
            return response
        response.read()
        raise httpx2.ReadError("the connection broke", request=request)

    def loses(self, request: httpx2.Request) -> bool:
        if request.method == "GET":
            return False
        self.keys.append(request.headers.get("idempotency-key"))
        return self.keys.count(self.keys[-1]) == 1


class LosingAnswersAsync(httpx2.AsyncBaseTransport):
    def __init__(self) -> None:
        self.of = LosingAnswers()
        self._real = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._real.handle_async_request(request)
        if not self.of.loses(request):
            return response
        await response.aread()
        raise httpx2.ReadError("the connection broke", request=request)


@pytest.fixture
def losing(connect: Connect, request: pytest.FixtureRequest) -> Iterator[tuple[Any, LosingAnswers]]:
    if request.node.callspec.params["connect"] == "sync":
        transport = LosingAnswers()
        yield connect(http_client=httpx2.Client(transport=transport)), transport
    else:
        of = LosingAnswersAsync()
        yield connect(http_client=httpx2.AsyncClient(transport=of)), of.of


def test_no_retry_makes_a_second_version_alias_batch_file_or_job(
    losing: tuple[Any, LosingAnswers], tmp_path: Path
) -> None:
    client, transport = losing
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(ROWS)
    client.adapters.upload("once", [0.0] * 13)
    client.adapters.set_alias("once", "prod", 1)
    assert client.adapters.upload_many({"name": f"m/{n}", "vector": [0.0] * 13} for n in range(3)).stored == 3
    job = client.fine_tuning.jobs.create(training_file=rows, method=REINFORCEMENT)

    assert client.adapters.get("once").version == 1
    assert len(list(client.adapters.alias_history("once", "prod"))) == 1
    assert [one.version for one in client.adapters.list(prefix="m/")] == [1, 1, 1]
    assert [one.id for one in client.files.list()] == [job.training_file]
    assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
    assert None not in transport.keys
    assert [transport.keys.count(key) for key in dict.fromkeys(transport.keys)] == [2] * 5, "each was sent twice"


def test_no_retry_makes_a_second_response_in_the_background(losing: tuple[Any, LosingAnswers]) -> None:
    client, transport = losing
    made = client.responses.create(model=BASE, input="one", background=True)
    assert [one.id for one in client.responses.list()] == [made.id]
    assert transport.keys == [transport.keys[0]] * 2, "it was sent twice"


def test_two_calls_are_two_and_a_key_of_ones_own_makes_them_one(client: Any) -> None:
    assert [client.adapters.upload("twice", [0.0] * 13).version for _ in range(2)] == [1, 2]
    again = [client.adapters.upload("mine", [0.0] * 13, idempotency_key="k1") for _ in range(2)]
    assert [one.version for one in again] == [1, 1]
