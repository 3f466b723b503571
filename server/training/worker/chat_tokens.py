"""Rows of chat data as token ids, by the base model's own chat template.

Texts are split before they are tokenized: a prompt is tokenized alone, as a server does it, and an answer alone behind
it, as a model writes it. So training sees the tokens that sampling produces, even where a tokenizer would join
characters across the border.

Design decision: every answer is an example of its own, behind what the template writes of the messages before it. One
sequence per conversation with a loss mask would be shorter, but templates write an answer differently once another one
follows (without its reasoning, for example), and training would see other tokens than sampling.

Tokens after the one that ends an answer are not trained on: a template's line break there is never generated. What
ends an answer is what the engine stops at: the tokenizer's end of sequence, and those of the generation configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jinja2

from server.core.errors import BadRequest
from server.training.worker.chat_format import calls_of, is_trained, to_template_message
from server.training.worker.dataset import DataError, Row


class ChatTokens:
    """Tokenizes rows with a transformers `tokenizer`; prompt and answer together have at most `max_tokens` tokens.

    kwargs: what its chat template is given beside messages and tools. end_tokens: at which the engine stops, beside the
    tokenizer's own.
    The methods raise BadRequest when the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int,
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        end_tokens: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._kwargs = kwargs
        self._ends = {*end_tokens, tokenizer.eos_token_id}

    def prompt(self, row: Row, room: int, param: str = "training_file") -> list[int]:
        """The token ids of all messages and of the header of the answer. DataError when `room` more would not fit."""
        tokens = self.tokens_of(self.render(row, row.messages, param, generate=True))
        if len(tokens) + room > self._max_tokens:
            raise DataError(
                row.line,
                f"its prompt has {len(tokens)} tokens",
                f"at most {self._max_tokens - room}, so that an answer of {room} fits behind it",
                param=param,
            )
        return tokens

    def examples(
        self, row: Row, param: str = "training_file", most: int | None = None
    ) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, answer ids) of every message that is trained; all of them together have at most `most` tokens.

        DataError when they are too long, or the chat template does not write the message or its tools.
        """
        examples: list[tuple[list[int], list[int]]] = []
        tokens = 0
        for index in (index for index, message in enumerate(row.messages) if is_trained(message)):
            prompt, answer = self._example(row, index, param)
            tokens += len(prompt) + len(answer)
            if most is not None and tokens > most:
                raise DataError(
                    row.line,
                    f"up to messages[{index}] its answers, each with all messages before it, have {tokens} tokens",
                    f"at most {most} in a row (the server's setting max_step_tokens), or the weight 0 for some answers",
                    param=param,
                )
            examples.append((prompt, answer))
        return examples

    def _example(self, row: Row, index: int, param: str) -> tuple[list[int], list[int]]:
        where = f"messages[{index}]"
        before = self.render(row, row.messages[:index], param, generate=True)
        whole = self.render(row, row.messages[: index + 1], param, generate=False)
        if not whole.startswith(before):
            raise DataError(
                row.line,
                f"the chat template writes the messages before {where} differently with it than without it",
                "messages that the model's chat template keeps as they are, or the weight 0 for this one",
                param=param,
            )
        text = whole[len(before) :]
        for call in calls_of(row.messages[index]):
            if call["name"] not in text:
                raise DataError(
                    row.line,
                    f"the base model's chat template does not write the tool calls of {where}",
                    "texts to be learned, or the weight 0 for this one",
                    param=param,
                )
        prompt, answer = self.tokens_of(before), self.tokens_of(text)
        last = max((place for place, token in enumerate(answer) if token in self._ends), default=len(answer) - 1)
        answer = answer[: last + 1]
        if not answer:
            raise DataError(row.line, f"the chat template writes nothing for {where}", "an answer", param=param)
        if len(prompt) + len(answer) > self._max_tokens:
            raise DataError(
                row.line,
                f"it has {len(prompt) + len(answer)} tokens up to the end of {where}",
                f"at most {self._max_tokens}",
                param=param,
            )
        return prompt, answer

    def ends(self, answer: Sequence[int]) -> bool:
        """Whether the engine stops at the last of these tokens."""
        return answer[-1] in self._ends

    def render(self, row: Row, messages: Sequence[Mapping[str, Any]], param: str, *, generate: bool) -> str:
        """What the template writes of `messages` with the tools of `row`. Raises DataError.

        generate: with the header of an answer behind them.
        """
        if not self._tokenizer.chat_template:
            raise BadRequest(
                "the base model has no chat template, so there is no way to write messages for it; add one to its "
                "tokenizer",
                param="model",
                code="no_chat_template",
            )
        try:
            text: str = self._tokenizer.apply_chat_template(
                [to_template_message(message) for message in messages],
                tools=list(row.tools) or None,
                add_generation_prompt=generate,
                tokenize=False,
                **self._kwargs,
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise DataError(
                row.line, f"the model's chat template refuses it ({error!s:.200})", "other messages", param=param
            ) from error
        for tool in row.tools:
            if tool["function"]["name"] not in text:
                raise DataError(
                    row.line, "the base model's chat template does not write tools", "a row without them", param=param
                )
        return text

    def tokens_of(self, text: str) -> list[int]:
        """The token ids of `text`."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special ones included."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text
