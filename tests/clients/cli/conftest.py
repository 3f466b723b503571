"""A worker that trains nothing, for commands about jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.factors.factors import Factors
from tests.server.support.training_kit import ROWS, Worker

COMPLETION = {"text": "[bold]2[/bold]", "tokens": 1, "finished": True, "reward": 1.0, "advantage": 0.5}
GROUP = {"messages": [{"role": "user", "content": "1 + 1 = ?"}], "completions": [COMPLETION], "line": 7}


@pytest.fixture
def worker(base_url: str, factors: Factors, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("TINYLORA_URL", base_url)
    with httpx.Client(base_url=base_url) as http:
        yield Worker(http, factors.digest)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    return file


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., None]]:
    """Has a worker do the next job while a command runs: meanwhile(worker, end)."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def run(worker: Worker, end: str = "succeeded") -> None:
        def work() -> None:
            try:
                do_next_job(worker, end)
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield run
    for thread in threads:
        thread.join()
    assert errors == []


def do_next_job(worker: Worker, end: str) -> None:
    """Waits for a job, and does it in two steps, of which the second is a checkpoint."""
    claimed: list[Any] = []
    while not claimed:
        claimed = worker.claim()["jobs"]
    worker.validated(claimed[0]["id"], 2)
    (job,) = worker.claim()["jobs"]
    assert worker.report(job["id"], 1, 0.25, samples=[GROUP]).status_code == 200
    assert worker.report(job["id"], 2, 0.75, publish=True).status_code == 200
    error = {"code": "training_failed", "message": "the GPU caught fire", "param": None}
    response = worker.succeed(job["id"]) if end == "succeeded" else worker.finish(job["id"], "failed", error=error)
    assert response.status_code == 200, response.text
