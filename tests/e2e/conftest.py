"""One real server for all tests of this directory, and the official openai client to it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from server.launch.embedded_model import ensure_embedded_model
from tests.e2e.running import ADMIN_KEY, AS_ADMIN, ServerProcess
from tests.e2e.talking import Talk
from tests.e2e.trace_receiver import TraceReceiver, receiving_traces


@pytest.fixture(scope="package")
def traces() -> Iterator[TraceReceiver]:
    with receiving_traces() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, traces: TraceReceiver) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path_factory.mktemp("server"), ensure_embedded_model(), traces_url=traces.url)
    running.start()
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.terminate()
            running.wait()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN_KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=AS_ADMIN, timeout=120) as client:
        yield client


@pytest.fixture
def talk(client: openai.OpenAI, http: httpx.Client, server: ServerProcess) -> Talk:
    return Talk(client, http, server.model)
