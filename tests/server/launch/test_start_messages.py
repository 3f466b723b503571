"""What a server that listens says of how to try it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from server.launch.start_messages import say_how_to_try
from tests.server.support.fake_engine import tiny_factors


def test_the_key_that_the_commands_send_is_the_one_that_the_first_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_how_to_try("http://0.0.0.0:8000", "tiny", tiny_factors(tmp_path), "keys")
    said = capsys.readouterr().out
    commands = said.partition("this makes one:")[2].replace("To try it:", "")
    programs = """tinylora() { echo tl_made; }; python3() { :; }; curl() { echo "$@"; }\n"""
    done = subprocess.run(["bash", "-euc", programs + commands], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Authorization: Bearer tl_made") == 2


def test_without_keys_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_how_to_try("unix:/tmp/a b.sock", "tiny", tiny_factors(tmp_path), "open")
    said = capsys.readouterr().out
    assert "TINYLORA_API_KEY" not in said and "--unix-socket '/tmp/a b.sock' http://localhost/v1" in said
