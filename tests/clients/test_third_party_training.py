"""Files and fine-tuning jobs by the official openai clients, on a server whose worker trains nothing.

The programs and their other features are in tests/e2e/third_party_clients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.clients.training import train_what_comes
from tests.e2e.third_party_clients.clients import (
    CLIENTS,
    TRAINING_FEATURES,
    ThirdPartyClient,
    run_program,
    why_not_installed,
)
from tests.e2e.third_party_clients.test_clients import check
from tests.server.support.fake_engine import BASE
from tests.server.support.training_kit import Worker

OPENAI = [client for client in CLIENTS if client.package == "openai"]


@pytest.mark.parametrize("client", OPENAI, ids=lambda client: client.name)
def test_a_job_from_its_file_to_a_chat_with_its_adapter(
    client: ThirdPartyClient,
    base_url: str,
    worker: Worker,
    meanwhile: Callable[[Callable[[], object]], None],
    pytestconfig: pytest.Config,
) -> None:
    reason = why_not_installed(client)
    if reason is not None:
        pytest.skip(reason)
    stop = threading.Event()
    meanwhile(lambda: train_what_comes(worker, stop))
    world = {
        "url": base_url, "key": "unused", "model": BASE, "adapter": "", "base_answer": "", "adapted_answer": ""
    }  # fmt: skip
    try:
        outcomes = run_program(client, world, TRAINING_FEATURES)
    finally:
        stop.set()
    check(client, outcomes, write=pytestconfig.getoption("--write-client-results"))
