"""`tinylora webhooks` against a gateway on a socket, which tells an endpoint on another."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from click.testing import Result
from typer.testing import CliRunner

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.launch.cli import cli
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.served import served
from tests.server.training.graders.endpoint_app import endpoint_app


@pytest.fixture
def url(settings: Settings, engine: FakeEngine, app_database: Database) -> Iterator[str]:
    quiet = settings.model_copy(update={"log_level": "error", "endpoint_hosts": "localhost"})
    with served(create_app(quiet, engine, app_database)) as url:
        yield url


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["webhooks", *arguments], env={"TINYLORA_URL": url, "COLUMNS": "300"})


def test_an_endpoint_from_its_making_to_its_end(url: str) -> None:
    with endpoint_app((200, {}), (503, {})) as endpoint:
        made = run(url, "create", endpoint.url, "-e", "response.completed", "-e", "batch.failed", "--json")
        assert made.exit_code == 0, made.output
        webhook = json.loads(made.output)
        assert run(url, "test", webhook["id"]).output == "response.completed: answered with 200\n"
        [(headers, body)] = endpoint.requests
        unwrapped = openai.OpenAI(api_key="k").webhooks.unwrap(body, headers, secret=webhook["signing_secret"])
        assert unwrapped.type == "response.completed"
        failed = run(url, "test", webhook["id"], "-e", "batch.failed")
        assert (failed.exit_code, failed.output) == (1, "batch.failed: answered with 503\n")
    rotated = run(url, "rotate", webhook["id"])
    assert rotated.output.splitlines()[-1].startswith("whsec_")
    assert webhook["signing_secret"] not in rotated.output
    [listed] = json.loads(run(url, "list", "--json").output)
    assert listed["id"] == webhook["id"] and "signing_secret" not in listed
    assert webhook["id"] in run(url, "list").output
    assert "fine_tuning.job.succeeded" in run(url, "events").output.splitlines()
    assert run(url, "delete", webhook["id"]).output == f"{webhook['id']} is deleted\n"
    again = run(url, "delete", webhook["id"])
    assert again.exit_code == 1 and "There is no webhook endpoint" in again.output
    refused = run(url, "create", "http://10.0.0.1/")
    assert refused.exit_code == 1 and "not among those" in refused.output
