"""Mistakes on the command line end at once: a sentence, an exit status, no traceback, and no engine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.running import free_port, start_tinylora

# Another server on this machine may have the default one.
PORT = ("--port", str(free_port()))
# Three of them import vLLM, which takes many seconds, so they run side by side.
MISTAKES: Mapping[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "unknown flag": (("serve", "--no-such-flag", "7", *PORT), {}),
    "missing directory": (("serve", "/no/such/directory", *PORT), {"HF_HUB_OFFLINE": "1"}),
    "rank of zero": (("serve",), {"TINYLORA_FACTORS_RANK": "0"}),
    "no key for others": (("serve", "--host", "0.0.0.0", *PORT), {}),
    "known admin key": (("serve",), {"TINYLORA_ADMIN_KEY": "change-me"}),
}


@dataclass(frozen=True)
class Ended:
    status: int
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.rstrip().splitlines()[-1]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    directory: Path = tmp_path_factory.mktemp("mistakes")
    running = {
        mistake: start_tinylora(
            *arguments,
            env={**os.environ, **variables}, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for mistake, (arguments, variables) in MISTAKES.items()
    }  # fmt: skip
    outputs = {mistake: process.communicate(timeout=250) for mistake, process in running.items()}
    return {mistake: Ended(running[mistake].returncode, outputs[mistake][1].decode()) for mistake in MISTAKES}


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("unknown flag", "tinylora serve: error: unrecognized arguments: --no-such-flag 7"),
        ("missing directory", "tinylora: '/no/such/directory' is neither a directory nor a model the hub could give"),
        ("rank of zero", "tinylora: TINYLORA_FACTORS_RANK"),
        ("no key for others", "tinylora: --host 0.0.0.0 can be reached from other machines, and there are no API keys"),
        ("known admin key", "tinylora: TINYLORA_ADMIN_KEY is a placeholder that everyone knows"),
    ],
    ids=list(MISTAKES),
)
@pytest.mark.slow
def test_mistakes_end_with_one_sentence_and_a_status(ended: dict[str, Ended], mistake: str, sentence: str) -> None:
    assert ended[mistake].status in (1, 2)
    assert ended[mistake].last_line.startswith(sentence)
    assert "Traceback" not in ended[mistake].stderr
