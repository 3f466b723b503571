"""Which of the engine's errors say that a prompt does not fit, and OpenAI's words for it.

Programs look for the code, and then shorten their conversation and ask again; vLLM has none for it, only sentences.
"""

from __future__ import annotations

import re

CODE = "context_length_exceeded"
# What does not fit, by OpenAI's routes.
FIELDS = {
    "/v1/chat/completions": "messages",
    "/v1/chat/completions/batch": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
}
# As vLLM's sentences begin. Only the first is of its checks of all routes; a prompt that leaves no room for a token of
# an answer is found later, and by each route in its own words.
_SENTENCES = re.compile(
    r"This model's maximum context length is "
    r"|Input length \(\d+\) exceeds model's maximum context length"
    r"|The engine prompt length \d+ exceeds the max_model_len"
    r"|The decoder prompt \(length \d+\) .*is longer than the maximum model length"
)


def is_over_context(message: object) -> bool:
    """Whether `message`, of an error of the engine, says that a prompt is longer than the model's context."""
    return isinstance(message, str) and _SENTENCES.match(message) is not None
