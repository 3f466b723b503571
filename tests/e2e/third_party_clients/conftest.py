"""Every client's program, run once against the one server of these tests, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.running import ADMIN_KEY, AS_ADMIN, ServerProcess
from tests.e2e.talking import Talk
from tests.e2e.third_party_clients.clients import (
    CLIENTS,
    FEATURES,
    TRAINING_FEATURES,
    run_program,
    why_not_installed,
)  # fmt: skip
from tests.e2e.third_party_clients.python.features import QUESTION, TOKENS

AT_ONCE = 3
ADAPTER = "acme/peer"
Report = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="package")
def report(server: ServerProcess) -> Iterator[Report]:
    """What the program of the client with this name reported."""
    features = [feature for feature in FEATURES if feature not in TRAINING_FEATURES]
    world = world_of(server)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports: dict[str, Future[dict[str, Any]]] = {
            client.name: pool.submit(run_program, client, world, features)
            for client in CLIENTS
            if why_not_installed(client) is None
        }
        yield lambda name: reports[name].result()


def world_of(server: ServerProcess) -> dict[str, str]:
    """The server, with an adapter, and what the base model and the adapter answer."""
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN_KEY, max_retries=0) as client,
        httpx.Client(base_url=server.url, headers=AS_ADMIN, timeout=120) as http,
    ):
        talk = Talk(client, http, server.model)
        talk.upload(ADAPTER, 0.3)
        answers = []
        for model in (server.model, ADAPTER):
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=TOKENS
            )
            answers.append(answer.choices[0].message.content or "")
    base, adapted = answers
    assert base != adapted, "a client that forgets the adapter would not be noticed"
    return {
        "url": server.url, "key": ADMIN_KEY, "model": server.model, "adapter": ADAPTER, "base_answer": base,
        "adapted_answer": adapted,
    }  # fmt: skip
