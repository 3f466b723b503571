"""The log has one line per request, with its id, and never what users sent."""

import errno
import io
import json
import sys
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.training_kit import Worker, create_job


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_request_is_logged_once_with_what_identifies_it(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"adapter": {"vector": [1.0] * 13}, "messages": []}
    response = await client.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    (line,) = lines(capsys)
    assert line.pop("duration_ms") >= 0
    assert line.pop("timestamp")
    assert len(line.pop("engine_request_id")) == 32
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "mine-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "adapter": response.headers["x-tinylora-adapter"],
        "tenant": "default",
        "key_id": None,
    }


async def test_failure_is_logged_with_its_traceback_and_id_but_not_with_what_was_sent(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"messages": [{"role": "user", "content": "my diary"}]}
    response = await client.post("/v1/fail/unexpected", json=body)
    failure, request = lines(capsys)
    assert failure["request_id"] == request["request_id"] == response.headers["x-request-id"]
    assert (failure["level"], request["status"]) == ("error", 500)
    assert "KeyError" in failure["exception"]
    assert "my diary" not in json.dumps([failure, request])


async def test_probes_are_not_logged_unless_debugging(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("/health", "/ready", "/metrics"):
        await client.get(path)
    assert lines(capsys) == []


async def test_claims_are_logged_when_they_bring_a_job_or_fail(
    openai_client: openai.OpenAI, base_url: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers ask every few seconds."""
    with httpx.Client(base_url=base_url) as http:
        worker = Worker(http, engine.factors.digest)
        worker.claim()
        assert lines(capsys) == []
        create_job(openai_client)
        worker.claim()
        worker.post("claim")
    claims = [line["status"] for line in lines(capsys) if line["path"] == "/v1/worker/claim"]
    assert claims == [200, 400]


async def test_console_format_is_for_people(
    settings: Settings, engine: FakeEngine, app_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    app: FastAPI = create_app(settings.model_copy(update={"log_format": "console"}), engine, app_database)
    async with client_of(app) as client:
        await client.post("/v1/fail/unexpected", json={"messages": "my diary"})
    output = capsys.readouterr().out
    assert "Traceback" in output and "status" in output and "my diary" not in output


async def test_paths_do_nothing_to_a_terminal_and_hide_nothing_in_it(
    settings: Settings, engine: FakeEngine, app_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(settings.model_copy(update={"log_format": "console"}), engine, app_database)
    async with client_of(app) as client:
        for path in ("/a%0a2026-01-01%20request%20tenant=b", "/%1b[2J", "/%C2%9B2J", "/%E2%80%AEgnp.x", "/%E2%80%A8x"):
            await client.get(path)
        await client.get("/%C3%BC")
    output = capsys.readouterr().out
    assert output.count("\n") == len(output.splitlines()) == 6
    assert output.replace("\n", "").isprintable() and r"\u202egnp.x" in output and "/ü" in output


class FullDisk(io.StringIO):
    """A standard output on which nothing can be written any more."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_request_does_not_fail_because_it_cannot_be_logged(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())
    assert (await client.get("/adapters")).status_code == 200


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "\x7f", "a\tb", "{}"])
async def test_request_id_unfit_for_logs_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    response = await client.get("/adapters", headers={"x-request-id": sent})
    assert response.headers["x-request-id"] != sent
    assert len(response.headers["x-request-id"]) == 32


async def test_request_ids_differ_and_are_on_every_answer(client: httpx.AsyncClient) -> None:
    paths = ("/adapters", "/nowhere", "/adapters/none", "/health", "/metrics", "/adapters")
    ids = [(await client.get(path)).headers["x-request-id"] for path in paths]
    assert len(set(ids)) == len(paths)
    kept = await client.get("/nowhere", headers={"x-request-id": "trace:7f/1.a_b-c"})
    assert kept.headers.get_list("x-request-id") == ["trace:7f/1.a_b-c"]
