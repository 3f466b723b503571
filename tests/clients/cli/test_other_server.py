"""Commands and clients at the address of another server, which answers everything with status 200."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner, Result

from clients.cli.server_health import server_findings
from server.launch.cli import cli
from tinylora_client import TinyLoRA

ANSWERS = {
    "html": ("text/html", b"<html>Welcome</html>"),
    "empty": ("application/json", b"{}"),
    "list": ("application/json", b"[]"),
    "broken": ("application/json", b"{"),
}
COMMANDS = (
    ("models",),
    ("limits",),
    ("chat", "hello"),
    ("chat", "hello", "--model", "m"),
    ("adapters", "list"),
    ("adapters", "show", "a"),
    ("jobs", "list"),
    ("jobs", "show", "ftjob-1"),
    ("batch", "list"),
    ("responses", "list"),
    ("tenants", "list"),
    ("keys", "create", "acme", "k"),
    ("webhooks", "list"),
    ("train", "rows.jsonl"),
    ("eval", "rows.jsonl"),
)


@pytest.fixture(params=ANSWERS)
def other_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with serving(*ANSWERS[request.param]) as url:
        yield url


@contextmanager
def serving(media_type: str, body: bytes, missing: int = 0) -> Iterator[str]:
    """The address of a server with this one answer. missing: bytes that are promised behind it, and never come."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"TINYLORA_URL": url})


def test_commands_say_so(other_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"messages": [{"role": "user", "content": "1 + 1 = ?"}], "answer": "2"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        result = run(other_server, *command)
        assert isinstance(result.exception, SystemExit), (command, result.exception)
        assert result.exit_code == 1, command
        sentence = result.stderr.splitlines()[-1]
        assert sentence.startswith(f"tinylora: {other_server}/v1/"), command
        assert sentence.endswith(" answered 200, not as a TinyLoRA server would: is --url right?"), command


def test_an_import_says_that_it_broke_off_and_how_it_goes_on(other_server: str, tmp_path: Path) -> None:
    file = tmp_path / "many.ndjson"
    file.write_text('{"name": "a"}\n')
    result = run(other_server, "adapters", "import", str(file))
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1
    assert "the answer to the upload has no outcomes in it" in result.stderr
    assert re.search(r"--idempotency-key import-\w+ goes on where it ended", result.stderr)


def test_one_that_lists_no_models_is_no_tinylora_server(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "1 + 1 = ?"}], "answer": "2"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with serving("application/json", b'{"object": "list", "data": [], "grader": {}, "id": "file-1"}') as url:
        for command in (("chat", "hello"), ("eval", str(tmp_path / "rows.jsonl"))):
            result = run(url, *command)
            assert isinstance(result.exception, SystemExit), (command, result.exception)
            assert "tinylora: the server lists no model" in result.stderr, command
        with TinyLoRA(base_url=url) as client, pytest.raises(openai.OpenAIError, match="lists no model"):
            client.fine_tuning.jobs.create(training_file="file-1")


def test_doctor_says_so(other_server: str) -> None:
    finding = server_findings(other_server)[-1]
    assert (finding.status, finding.advice) == ("failure", "give the address of a TinyLoRA server")
    assert "/v1/models?limit=1 answered 200, not as a TinyLoRA server would" in finding.found


def test_the_client_raises_openais_error_for_it(other_server: str) -> None:
    with TinyLoRA(base_url=other_server) as client:
        for ask in (client.limits, client.models.list, lambda: client.adapters.get("a")):
            with pytest.raises(openai.APIResponseValidationError, match="not as a TinyLoRA server would"):
                ask()
