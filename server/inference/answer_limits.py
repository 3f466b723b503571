"""Limits of an answer that clients set for larger models: lowered to what this model has room for, not refused.

    max_tokens, max_completion_tokens, max_output_tokens   at most the model's context
    thinking.budget_tokens                                 left to the model where it has no budgets, or no such room

An answer ends where the context ends, whatever its limit, so a lower limit changes no answer. The engine lowers limits
to the room that is left behind the prompt by itself, but refuses those beyond the whole context: programs that always
ask for 32,000 tokens, as Claude Code does, could not use a smaller model at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def lower_limits(payload: dict[str, object], max_model_len: int, *, has_thinking_budgets: bool) -> None:
    """Lower the limits in `payload`, the body of a request to a model route. Values of a wrong type are left."""
    for field in FIELDS:
        limit = payload.get(field)
        if _is_count(limit) and limit > max_model_len:
            payload[field] = max_model_len
    thinking = payload.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if _is_count(budget) and (budget >= max_model_len or not has_thinking_budgets):
            payload["thinking"] = {"type": "adaptive"}


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
