"""Rows of chat data as token ids, by the base model's own chat template.

Design decision: texts are split before they are tokenised. A prompt is tokenised alone, as a server does it, and an
answer by itself behind it, as a model writes it; so what is trained on is what is sampled, whichever tokens would span
the border.

Behind the token that ends an answer nothing is trained on: a template's line break after it is never generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from server.errors import BadRequest
from server.training.dataset import DataError, Row


class ChatTokens:
    """`tokenizer` is a transformers tokenizer; `max_tokens` what prompt and answer may be long together.

    Its functions raise BadRequest when the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def prompt(self, row: Row, room: int, param: str = "training_file") -> list[int]:
        """The tokens of all messages and of the beginning of the answer. DataError unless `room` more would fit."""
        tokens = self._ids(self._text(row, row.messages, param, generate=True))
        if len(tokens) + room > self._max_tokens:
            raise DataError(
                row.line,
                f"its prompt has {len(tokens)} tokens",
                f"at most {self._max_tokens - room}, so that an answer of {room} fits behind it",
                param=param,
            )
        return tokens

    def example(self, row: Row, param: str = "training_file") -> tuple[list[int], list[int]]:
        """The tokens of all messages but the last, and of the last. DataError when they are too many."""
        before = self._text(row, row.messages[:-1], param, generate=True)
        whole = self._text(row, row.messages, param, generate=False)
        if not whole.startswith(before):
            raise DataError(
                row.line,
                "the chat template writes the messages before the answer differently with it than without it",
                "messages that the model's chat template keeps as they are",
                param=param,
            )
        prompt, answer = self._ids(before), self._ids(whole[len(before) :])
        end = self._tokenizer.eos_token_id
        if end in answer:
            answer = answer[: len(answer) - answer[::-1].index(end)]
        if not answer:
            raise DataError(row.line, "the chat template writes nothing for the last message", "an answer", param=param)
        if len(prompt) + len(answer) > self._max_tokens:
            raise DataError(
                row.line, f"it has {len(prompt) + len(answer)} tokens", f"at most {self._max_tokens}", param=param
            )
        return prompt, answer

    def _text(self, row: Row, messages: Sequence[Mapping[str, Any]], param: str, *, generate: bool) -> str:
        if not self._tokenizer.chat_template:
            raise BadRequest(
                "the base model has no chat template, so there is no way to write messages for it; add one to its "
                "tokenizer",
                param="model",
                code="no_chat_template",
            )
        try:
            text: str = self._tokenizer.apply_chat_template(
                [_plain(message) for message in messages],
                tools=list(row.tools) or None,
                add_generation_prompt=generate,
                tokenize=False,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(
                row.line, f"the model's chat template refuses it ({error!s:.200})", "other messages", param=param
            ) from error
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates know messages: content is one text, and developers are the system."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    return {**message, "role": role, "content": content if content is not None else ""}
