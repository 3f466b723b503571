"""`tinylora chat` against the gateway on a socket: one question, and a conversation on a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.calls import printable
from server.launch.cli import cli
from tests.server.support.fake_engine import FakeEngine
from tinylora_client import TinyLoRA

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _adapters(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_URL", base_url)
    with TinyLoRA() as client:
        client.adapters.upload("acme/math", [0.5] * 13)
        client.adapters.upload("acme/calm", [1.0] * 13)


def run(*arguments: object, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(cli, ["chat", *map(str, arguments)], input=stdin)
    assert result.exit_code == code, result.output
    return result


def test_one_question_to_the_base_model_to_an_adapter_and_at_half_its_strength() -> None:
    assert run("hello").stdout.split() == ["base"]
    assert run("hello", "-a", "acme/math").stdout.startswith("acme/math@1: [0.5, ")
    assert "[0.25, 0.25" in run("hello", "-a", "acme/math", "-s", 0.5).stdout


def test_two_side_by_side_get_the_same_question_from_standard_input() -> None:
    said = run("-a", "base", "-a", "acme/calm", stdin="hello\n").stdout
    assert re.split(r"== (?:base|acme/calm)\n", said)[1].split() == ["base"]
    assert "== acme/calm\nacme/calm@1: [1.0," in said


def test_json_has_an_answer_of_each(engine: FakeEngine) -> None:
    flags = ("--system", "be brief", "--seed", 3, "--temperature", 0)
    found = json.loads(run("hello", "-a", "base", "-a", "acme/math", "-s", 2, *flags, "--json").stdout)
    base, adapter = found["answers"]
    assert (base["adapter"], base["text"].strip()) == ("base", "base")
    assert (adapter["adapter"], adapter["strength"], "[1.0, 1.0" in adapter["text"]) == ("acme/math", 2, True)
    assert {"finish_reason", "tokens", "first_token_s", "seconds"} < set(found["answers"][0])
    asked = engine.received[-1].model_dump()
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert (asked["seed"], asked["temperature"]) == (3, 0)


def test_mistakes_are_sentences() -> None:
    assert "The model 'acme/none' does not exist" in run("hello", "-a", "acme/none", code=1).stderr
    assert "there is no question" in run(stdin="", code=1).stderr
    assert "no answer of a TinyLoRA server" in run("hello", "--url", "http://127.0.0.1:9", code=1).stderr


def test_an_answer_that_breaks_off_is_no_whole_answer(engine: FakeEngine) -> None:
    engine.breaks_off = True
    for flags in ((), ("--json",)):
        assert "tinylora: the answer broke off before its end" in run("hello", *flags, code=1).stderr


def test_what_a_model_says_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\n\tä\x9bc🙂") == "a[2Jb\n\täc🙂"


def test_a_conversation_on_a_terminal(engine: FakeEngine) -> None:
    lines = [
        "hello",
        "/adapter acme/math",
        "again",
        "/strength 0.5",
        "and again",
        "/adapter acme/none",
        "/strength much",
        "/nonsense",
        "/adapter base acme/calm",
        "both",
        "/quit",
    ]
    said = on_terminal("\n".join(lines) + "\n")
    assert "acme/math will answer" in said and "[0.5, 0.5" in said
    assert "acme/math x 0.5 will answer" in said and "[0.25, 0.25" in said
    assert "! The model 'acme/none' does not exist" in said
    assert "! /strength takes a number" in said
    assert "there is no command /nonsense" in said and "/temperature NUMBER" in said
    assert "base, acme/calm x 0.5 will answer" in said and "first token" in said
    histories = [[message["content"] for message in asked.messages] for asked in engine.received]
    # The adapter does not remember what the base model was asked, and goes on where it was.
    assert histories[0] == ["hello"] and histories[1] == ["again"]
    assert (histories[2][0], histories[2][-1]) == ("again", "and again")


def on_terminal(typed: str) -> str:
    """What the command shows on a terminal on which all this is typed."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "server.launch.cli", "chat"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, cwd=ROOT, env=environment) as process:
        os.close(end)
        os.write(terminal, typed.encode())
        shown = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux's way of saying that the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(terminal)
    assert process.returncode == 0, shown.decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))
