"""`tinylora doctor --url`: servers that are well, and such that are not, each with what to do."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from clients.cli.finding import Finding
from clients.cli.server_health import server_findings
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.launch.cli import cli
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import ADMIN_KEY, with_admin_key


@pytest.fixture
def app(request: pytest.FixtureRequest, settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    """With keys, where the test says so."""
    keyed = getattr(request, "param", None) == "keyed"
    return create_app(with_admin_key(settings) if keyed else settings, engine, app_database)


def last(found: list[Finding]) -> tuple[str, str]:
    return found[-1].check, found[-1].status


def test_a_server_that_is_well(base_url: str) -> None:
    found = server_findings(f"{base_url}/v1")
    assert [(one.check, one.status) for one in found] == [
        ("server", "ok"),
        ("ready", "ok"),
        ("served", "ok"),
        ("answer", "ok"),
    ]
    assert BASE in found[2].found


def test_an_engine_that_is_gone(base_url: str, engine: FakeEngine) -> None:
    engine.alive = False
    found = server_findings(base_url)
    assert last(found) == ("server", "failure")
    assert "The engine is not alive" in found[-1].found and "restart it" in (found[-1].advice or "")


@pytest.mark.parametrize("app", ["keyed"], indirect=True)
def test_a_key_that_is_missing_and_one_that_is_there(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYLORA_ADMIN_KEY", raising=False)
    found = server_findings(base_url)
    assert last(found) == ("key", "failure") and "TINYLORA_API_KEY" in (found[-1].advice or "")
    monkeypatch.setenv("TINYLORA_API_KEY", ADMIN_KEY)
    assert last(server_findings(base_url)) == ("answer", "ok")


@pytest.fixture
def other_server() -> Iterator[str]:
    """A server of something else."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_something_else_at_the_address(other_server: str) -> None:
    found = server_findings(other_server)
    assert last(found) == ("server", "failure") and "501" in found[-1].found


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://["])
def test_nothing_at_the_address(url: str) -> None:
    (finding,) = server_findings(url)
    assert finding.status == "failure" and finding.found.startswith(f"nothing answers at {url}: ")


def test_the_command_says_so_in_lines_in_json_and_by_its_status(base_url: str) -> None:
    runner = CliRunner()
    well = runner.invoke(cli, ["doctor", "--no-machine", "--url", base_url, "--json"])
    assert (well.exit_code, json.loads(well.stdout)["ok"]) == (0, True)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    arguments = ["doctor", "--no-machine", "--url", f"http://127.0.0.1:{port}"]
    ill = runner.invoke(cli, arguments)
    assert ill.exit_code == 1
    assert ill.stdout.splitlines()[0].split()[:2] == ["failure", "server"] and "-> start one" in ill.stdout
    (check,) = json.loads(runner.invoke(cli, [*arguments, "--json"]).stdout)["checks"]
    assert set(check) == {"check", "status", "found", "advice"}
