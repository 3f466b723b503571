"""Calls of tools that a limit or a stop text cut off, in whole answers of /v1/messages.

vLLM reads the arguments of each call as JSON for them. Of a call that was cut they are none, and the request, with
which nothing is wrong, is 400 with a parser's words; streamed, and in OpenAI's APIs, it is an answer. Such a call has
no arguments here, and the answer says with "max_tokens" or "stop_sequence" why.
"""

from __future__ import annotations

import json
from typing import Any


def keep_cut_calls(serving: Any) -> None:
    """Have `serving`, vLLM's object for /v1/messages, answer with calls that were cut off. Call once."""
    convert = serving.messages_full_converter

    def converted(completion: Any) -> Any:
        choice = completion.choices[0]
        stop_text = choice.stop_reason if isinstance(choice.stop_reason, str) else None
        was_cut = False
        if choice.finish_reason == "length" or stop_text is not None:
            for call in choice.message.tool_calls:
                if not _is_object(call.function.arguments):
                    call.function.arguments, was_cut = "{}", True
        message = convert(completion)
        if was_cut and stop_text is not None:  # it holds calls that can be read for whole
            message.stop_reason, message.stop_sequence = "stop_sequence", stop_text
        return message

    serving.messages_full_converter = converted


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
