"""The whole way through the console with a worker that really trains, on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.chromium import Visitor
from tests.console.conftest import Server
from tests.console.training_flow import from_a_vector_to_an_alias
from tests.server.support.sampling_engine import tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"w{word}"}], "answer": f"w{word}"}).encode() + b"\n"
    for word in range(20, 26)
)


@pytest.fixture
def worker(server: Server, model_path: Path, tmp_path: Path) -> Iterator[Path]:
    """`tinylora worker` for the server; the file with what it printed."""
    tiny_tokenizer().save_pretrained(model_path)
    command = [sys.executable, "-m", "server.launch.cli", "worker", "--url", server.url, "--model", str(model_path)]
    with (tmp_path / "worker.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield tmp_path / "worker.txt"
        finally:
            process.terminate()
            process.wait()


def test_from_a_vector_to_an_alias(server: Server, worker: Path, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url).open("adapters")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        from_a_vector_to_an_alias(page, client, server.http, ROWS, "w20", worker.read_text)
