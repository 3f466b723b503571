"""Generated tokens as a message: its text, its tool calls and its reasoning, as /v1/chat/completions would answer them.

For whoever samples by token ids and still has to know what was said. It is vLLM's own parser of the model, with the
flags that the server was started with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateTokensChoice, GenerateTokensResponse
from vllm.renderers.online_derenderer import OnlineDerenderer


async def message_of(
    derenderer: OnlineDerenderer,
    tokens: Sequence[int],
    tools: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """The assistant's message that `tokens` (at least one, without the one that ends it) are, in OpenAI's shape.

    tools: those that the model was offered, in OpenAI's shape. kwargs: what its chat template was given beside them,
    which says whether it thinks at all. ValueError for what can be read as no message.
    """
    request = ChatCompletionRequest.model_validate(
        {
            "messages": [{"role": "user", "content": ""}],
            "chat_template_kwargs": dict(kwargs),
            **({"tools": list(tools)} if tools else {}),
        }
    )
    generated = GenerateTokensResponse(choices=[GenerateTokensChoice(index=0, token_ids=list(tokens))])
    try:
        [choice] = await derenderer.derender_chat(generated, request)
    except Exception as error:  # Parsers are made for what models should write, and see what they do write.
        raise ValueError(f"{type(error).__name__}: {error!s:.200}") from error
    message = choice.message.model_dump(include={"role", "content", "reasoning", "tool_calls"}, exclude_none=True)
    return {name: value for name, value in message.items() if value != []}
