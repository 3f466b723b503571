"""Fixtures for clients of training: rows, a worker that trains nothing, and what goes on beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from adapters.factors.factors import Factors
from tests.server.support.training_kit import ROWS, Worker


@pytest.fixture
def worker(base_url: str, factors: Factors) -> Iterator[Worker]:
    with httpx.Client(base_url=base_url) as http:
        yield Worker(http, factors.digest)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    return file


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Runs a function beside the test, and has the test fail where it fails."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def run(do: Callable[[], object]) -> None:
        def caught() -> None:
            try:
                do()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=caught))
        threads[-1].start()

    yield run
    for thread in threads:
        thread.join()
    assert errors == []


def train_what_comes(worker: Worker, stop: threading.Event) -> None:
    """Have `worker` finish every job that is made, until `stop`."""
    while not stop.wait(0.1):
        for job in worker.claim()["jobs"]:
            if job["status"] == "validating_files":
                worker.validated(job["id"])
            else:
                worker.report(job["id"], 1, publish=True)
                worker.succeed(job["id"])
