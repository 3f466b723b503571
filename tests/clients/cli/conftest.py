"""Commands ask the gateway of the test."""

from __future__ import annotations

import pytest

from tests.server.support.training_kit import Worker


@pytest.fixture
def worker(worker: Worker, base_url: str, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("TINYLORA_URL", base_url)
    return worker
