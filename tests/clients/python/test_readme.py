"""The programs of the READMEs that use the client, word by word, but for the server's address and its model."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import httpx
import pytest

from adapters.factors.factors import Factors
from server.launch.embedded_model import MODEL_NAME
from tests.clients.python.test_wheel import train_what_comes
from tests.server.support.fake_engine import BASE
from tests.server.support.training_kit import ROWS, Worker

ROOT = Path(__file__).resolve().parents[3]
PAGES = (ROOT / "README.md", ROOT / "clients/python/README.md")


def programs() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    return [block for block in blocks if "import TinyLoRA" in block]


def test_each_page_has_one() -> None:
    assert len(programs()) == len(PAGES)


@pytest.mark.parametrize("program", programs(), ids=["server", "client"])
def test_a_program_does_what_it_says(
    program: str,
    base_url: str,
    factors: Factors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_bytes(ROWS)
    found: dict[str, object] = {}
    with httpx.Client(base_url=base_url) as http:
        stop = threading.Event()
        thread = threading.Thread(target=train_what_comes, args=(Worker(http, factors.digest), stop))
        thread.start()
        try:
            exec(program.replace("http://localhost:8000", base_url).replace(MODEL_NAME, BASE), found)
        finally:
            stop.set()
            thread.join()
    if "job" in found:
        assert capsys.readouterr().out.splitlines()[-1].startswith("ft:")
    else:
        assert "[0.1" in str(found["answer"]), "half of 0.2"
