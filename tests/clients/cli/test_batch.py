"""`tinylora batch` against the gateway on a socket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.cli.pipe import piped
from tests.clients.cli.test_train import run
from tests.server.support.batch_kit import line
from tests.server.support.fake_engine import BASE


@pytest.fixture(autouse=True)
def url(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_URL", base_url)


def test_a_file_becomes_a_batch_and_its_answers(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(f"{line('a')}\n{line('bad', messages=5)}\n")
    answers = [json.loads(text) for text in run("batch", "create", file, "--watch").stdout.splitlines()]
    assert [row["custom_id"] for row in answers] == ["a", "bad"]
    (batch,) = json.loads(run("batch", "list", "--json").stdout)
    assert batch["id"] in run("batch", "list").stdout
    assert "completed, 2/2 lines" in run("batch", "watch", batch["id"]).stdout
    assert len(run("batch", "output", batch["id"]).stdout.splitlines()) == 2
    assert "can no longer be cancelled" in run("batch", "cancel", batch["id"], code=1).stderr


def test_the_endpoint_is_that_of_the_first_line_of_a_pipe_too(tmp_path: Path) -> None:
    body = {"model": BASE, "input": "hello"}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    with piped(tmp_path / "in.jsonl", f"\n{json.dumps(request)}\n".encode()) as pipe:
        assert json.loads(run("batch", "create", pipe, "--json").stdout)["endpoint"] == "/v1/responses"


def test_a_directory_is_no_file_of_requests(tmp_path: Path) -> None:
    assert "is a directory" in run("batch", "create", tmp_path, code=2).stderr


def test_a_file_that_is_wrong_ends_the_command_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("{")
    said = run("batch", "create", file, "--watch", code=1).stderr
    assert "line 1: This line is not valid JSON" in said
    batch_id = json.loads(run("batch", "list", "--json").stdout)[0]["id"]
    assert "is failed, and has no files" in run("batch", "output", batch_id, code=1).stderr
