"""The tokens behind a turn of the model: an environment's messages as the chat template writes them, and a header.

A conversation is trained as the tokens that the model was sampled with, one after the other. So the next prompt is not
rendered and tokenized anew: it is the last prompt, what the model sampled, and what the template writes behind that.

    prompt | sampled ... end | \\n<tool's message>\\n<header of the next turn> | sampled ... end | ...

That is the difference between what the template writes of (prompt, any answer, messages) and of (prompt, that answer).

Design decision: rendering the whole conversation for every turn, as a client of chat completions does, is refused where
it would give other tokens. Templates that drop the reasoning of earlier answers, or change an answer once a message
follows it, would have the model trained on a text that it never saw. Whether a template does is seen by an answer with
reasoning, which must come out as it went in; `check` tries it when the job's file is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.conversation import Message
from server.training.worker.dataset import DataError, Row

_THINK = "<think>\n"
# With what templates of models that reason look for.
_ANSWER = f"{_THINK}reason\n</think>\n\nanswer"
_OBSERVED = "observed"


class TemplateRefuses(Exception):
    """The chat template cannot go on with these messages. The message is a sentence for whoever wrote them."""


class ChatTurns:
    """Goes on with conversations, by the chat template of `chat`."""

    def __init__(self, chat: ChatTokens) -> None:
        self._chat = chat

    def check(self, row: Row, param: str) -> None:
        """DataError when the template lets neither a user's nor a tool's message follow an answer to `row`."""
        probes: list[Message] = [{"role": "user", "content": _OBSERVED}]
        if row.tools:
            # Of nine letters and digits, as some templates want it.
            probes.append({"role": "tool", "tool_call_id": "call00001", "content": _OBSERVED})
        for probe in probes:
            try:
                self.text_behind(row, [probe], "")
                return
            except TemplateRefuses as error:
                why = error
        raise DataError(
            row.line,
            f"no message of an environment can follow an answer to it: {why}",
            "a chat template that keeps what was said as it was (tinylora serve --chat-template FILE, with the model's "
            "template changed so), or no environment",
            param=param,
        )

    def text_behind(self, row: Row, messages: Sequence[Message], end: str) -> str:
        """What the template writes behind an answer to `row` that ended with the token `end`, when `messages` follow.

        TemplateRefuses when it does not keep the answer as it was, or does not write the messages.
        """
        for message in {message["role"]: message for message in messages}.values():
            if _OBSERVED not in self._behind(row, [{**message, "content": _OBSERVED}]):
                raise TemplateRefuses(f"the model's chat template writes no messages of role {message['role']}")
        text = self._behind(row, messages)
        return text.lstrip()[len(end) :] if end and text.lstrip().startswith(end) else text

    def tokens_behind(self, row: Row, messages: Sequence[Message], end: int) -> list[int]:
        """The same as tokens, `end` being the last one that was sampled; one of the template's own, where that is
        another, is among them."""
        ending = self._chat.text_of([end])
        text = self.text_behind(row, messages, ending)
        # Behind the token, so that a tokenizer that marks beginnings sees that this is none.
        tokens = self._chat.tokens_of(ending + text)
        return tokens[1:] if tokens[:1] == [end] else self._chat.tokens_of(text)

    def _behind(self, row: Row, messages: Sequence[Message]) -> str:
        before = self._render(row, row.messages)
        whole = self._render(row, [*row.messages, {"role": "assistant", "content": _ANSWER}, *messages])
        answer = _ANSWER.removeprefix(_THINK) if before.endswith(_THINK) else _ANSWER
        # Some write a blank between header and answer, which the model itself would write as well.
        rest = whole[len(before) :].lstrip()
        if not whole.startswith(before) or not rest.startswith(answer):
            raise TemplateRefuses(
                f"the model's chat template changes what was said before a message of role {messages[0]['role']} (it "
                "drops the reasoning of the answer, for example), so the model would read another text than it wrote"
            )
        return rest[len(answer) :]

    def _render(self, row: Row, messages: Sequence[Message]) -> str:
        try:
            return self._chat.render(row, messages, "messages", generate=True)
        except DataError as error:
            raise TemplateRefuses(error.what) from error
