"""Limits beyond the model's context are the context; the engine's request models take what is left."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest

from server.inference.answer_limits import FIELDS, lower_limits
from tests.server.support.fake_engine import FakeEngine


@pytest.mark.parametrize("field", FIELDS)
async def test_a_limit_is_at_most_the_context(client: httpx.AsyncClient, engine: FakeEngine, field: str) -> None:
    for asked, got in ((1, 1), (128, 128), (129, 128), (32_000, 128), (2**70, 128), (-1, -1), (None, None), ("9", "9")):
        # Beside the route's own name, without which another's is refused.
        response = await client.post("/v1/chat/completions", json={"messages": [], "max_tokens": 7, field: asked})
        assert response.status_code == 200
        assert (engine.received[-1].model_extra or {})[field] == got


@pytest.mark.parametrize(
    ("has_budgets", "budget", "left"), [(True, 1024, 1024), (True, 8192, None), (False, 1024, None)]
)
def test_a_budget_of_thinking_is_left_to_the_model_where_it_cannot_be_held(
    has_budgets: bool, budget: int, left: int | None
) -> None:
    payload: dict[str, Any] = {
        "model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 32_000,
        "thinking": {"type": "enabled", "budget_tokens": budget},
    }  # fmt: skip
    lower_limits(payload, 8192, has_thinking_budgets=has_budgets)
    read = AnthropicMessagesRequest.model_validate(payload)
    assert read.max_tokens == 8192
    assert getattr(read.thinking, "budget_tokens", None) == left


@pytest.mark.parametrize("thinking", [None, "enabled", {"type": "disabled"}, {"type": "enabled", "budget_tokens": "x"}])
def test_what_is_wrong_is_left_for_the_engine_to_refuse(thinking: object) -> None:
    payload: dict[str, object] = {"thinking": thinking, "max_tokens": True}
    lower_limits(payload, 8192, has_thinking_budgets=False)
    assert payload == {"thinking": thinking, "max_tokens": True}
