"""The benchmark of batches, with few lines and an engine that answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.batches import Proof, parsed
from tests.server.support.serve_fake import CHUNK_VARIABLE

LINES = 200


@pytest.mark.slow
def test_a_killed_server_goes_on_and_everything_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--lines", str(LINES), "--kills", "1", "--rounds", "1", "--requests", "2"]
    # Two lines at once, so that there is time to be killed.
    settings = ["--env", f"{CHUNK_VARIABLE}=0.05", "--env", "TINYLORA_BATCH_LEASE_S=2"]
    url = f"sqlite:///{tmp_path}/batches.db"

    def serve_fake(port: int) -> list[str]:
        return [sys.executable, "-m", "tests.server.support.serve_fake", json.dumps([url, port])]

    proof = Proof(parsed([*options, *settings]), tmp_path, serve_fake)
    proof.run()
    found = proof.found
    assert (found["once"], found["tokens"], len(found["rounds"])) == (LINES, [3 * LINES, 2 * LINES], 1)
    [killed], lives = found["kills"], found["lives"]
    assert 0 < killed < LINES and len(lives) == 2
    assert all(0 < life["start_bytes"] <= life["most_bytes"] for life in lives)
    requests, prompt_tokens, answer_tokens = found["booked"]
    # Those that were on their way when it was killed are computed, and booked, again.
    assert LINES <= requests < LINES + 200
    assert (prompt_tokens, answer_tokens) == (3 * requests, 2 * requests)
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert f"{LINES} of {LINES}" in capsys.readouterr().out
