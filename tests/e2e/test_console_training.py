"""The console on the real engine, from a vector dropped into it to a trained adapter behind an alias."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import openai
import pytest

from tests.chromium import Visitor
from tests.console.training_flow import from_a_vector_to_an_alias
from tests.e2e.running import ADMIN_KEY, ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"Say {word}."}], "answer": word}).encode() + b"\n"
    for word in ("one", "two", "three", "four", "five", "six")
)


def test_from_a_vector_to_an_alias(
    server: ServerProcess, client: openai.OpenAI, http: httpx.Client, visit: Callable[..., Visitor]
) -> None:
    page = visit(server.url, key=ADMIN_KEY).open("adapters")
    from_a_vector_to_an_alias(page, client, http, ROWS, "Say one.", server.output)
