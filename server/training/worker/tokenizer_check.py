"""Whether the worker's tokenizer is the one that the engine serves with: prompts and answers are tokenized here, and
another tokenizer would train tokens that no request has, without a word.

The engine is asked for the tokens of a text. Of chat templates it says nothing.
"""

from __future__ import annotations

from typing import Any

from server.training.worker.gateway_client import GatewayClient

# Letters of several scripts, digits, signs, line breaks and spaces: where tokenizers differ.
PROBE = 'A user asks an assistant to add 1 and 345.67:\n\n\tdef f(a, b):  return a + b\n"Größe, ça va?" 你好 мир 🙂 #42'


class OtherTokenizer(Exception):
    """The engine has another tokenizer. The message is for people."""


async def check_tokenizer(gateway: GatewayClient, tokenizer: Any) -> None:
    """OtherTokenizer when the engine makes other tokens of a text than `tokenizer`; nothing where it does not say."""
    served = await gateway.tokens_of(PROBE)
    if served is not None and served != tokenizer(PROBE, add_special_tokens=False)["input_ids"]:
        raise OtherTokenizer(
            "the server's tokenizer is not the worker's: they make different tokens of the same text. Start the worker "
            "with the server's --model, and with its --tokenizer if it has one"
        )
