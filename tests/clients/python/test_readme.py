"""The program of the client's README, word by word, but for the server's address."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import httpx
import pytest

from adapters.factors.factors import Factors
from tests.clients.python.test_wheel import CLIENT, train_what_comes
from tests.server.support.training_kit import ROWS, Worker


def test_the_program_does_what_it_says(
    base_url: str,
    factors: Factors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_bytes(ROWS)
    with httpx.Client(base_url=base_url) as http:
        stop = threading.Event()
        thread = threading.Thread(target=train_what_comes, args=(Worker(http, factors.digest), stop))
        thread.start()
        try:
            exec(program.replace("http://localhost:8000", base_url), {})
        finally:
            stop.set()
            thread.join()
    alias, mixture, vector, adapter = capsys.readouterr().out.splitlines()
    assert alias.startswith("acme/math@1: [0.2") and mixture.startswith("mix:") and vector.startswith("inline:")
    assert adapter.startswith("ft:")
