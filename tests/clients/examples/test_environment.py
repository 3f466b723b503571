"""The example of an environment, asked by the worker's own client of environments."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from clients.examples.environment import MOST, PROMPT, answer
from clients.examples.grader import handler
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.training.graders.environment import EnvironmentSpec
from server.training.graders.grade import GraderError
from server.training.worker.environment import Environment
from tests.server.support.endpoint import endpoint

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


@pytest.fixture
def url() -> Iterator[str]:
    with endpoint(handler(SECRET, answer)) as url:
        yield url


async def test_whoever_follows_its_hints_finds_the_number(url: str) -> None:
    client = EndpointClient(AllowedHosts("localhost"))
    environment = Environment(EnvironmentSpec(url=url, secret=SECRET, max_turns=5), client)
    try:
        for seed in range(10):
            messages: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
            low, high = 1, MOST
            for turn in range(1, 6):
                guess = (low + high) // 2
                messages.append({"role": "assistant", "content": f"Is it {guess}?"})
                asked = {"id": "conv_1", "seed": seed, "turn": turn, "turns_left": 5 - turn, "messages": messages}
                said = await environment.answer(asked, ())
                # The same request again has the same answer.
                assert await environment.answer(asked, ()) == said
                if said.done:
                    assert said.reward == 1 / turn
                    break
                messages += said.messages
                low, high = (guess + 1, high) if "higher" in said.messages[0]["content"] else (low, guess - 1)
            else:
                pytest.fail("five guesses are enough for twenty numbers")
        nobody = Environment(EnvironmentSpec(url=url), client)
        with pytest.raises(GraderError, match=r"status 401: .*the signature is not right"):
            await nobody.answer({}, ())
    finally:
        await client.close()
