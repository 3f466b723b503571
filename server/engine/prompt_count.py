"""How many tokens vLLM makes of a conversation: as its own route /tokenize says, with the server's flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest, TokenizeResponse
from vllm.entrypoints.serve.tokenize.serving import ServingTokenization

from server.engine.template_cost import PromptCount


def prompt_count(tokenization: ServingTokenization) -> PromptCount:
    """Counts with what answers that route."""

    async def count(messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]]) -> int | None:
        fields = {"messages": list(messages), **({"tools": list(tools)} if tools else {})}
        try:
            request = TokenizeChatRequest.model_validate(fields)
            answer = await tokenization.create_tokenize(request, Request({"type": "http", "headers": []}))
        except Exception:  # Templates raise what they like, for a role that they do not know, say.
            return None
        return answer.count if isinstance(answer, TokenizeResponse) else None

    return count
