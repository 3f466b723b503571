"""What one request has used so far: the engine adds to it while it generates, whoever accounts for it reads it.

Design decision: one small mutable object per request, in its ASGI scope. The engine is handed only its `add`, so it
knows nothing of tenants, quotas or bills, and what a request used is known however it ended.

It does not decide anything (admission.py) and is not stored (inference/usage_meter.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope


@dataclass(slots=True)
class RequestUsage:
    """Tokens of the prompts and of the answers of one request, those of answers nobody received included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """What the engine calls, once per step of the request."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def usage_of(scope: Scope) -> RequestUsage:
    """The usage of the inference request with this ASGI scope, which InferenceMiddleware put there."""
    usage: RequestUsage = scope["state"]["usage"]
    return usage
