"""What is noticed about the rows of a job while they are checked, and no reason to refuse them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from server.training.worker.chat_tokens import ChatTokens


class Tokens(Protocol):
    """An example (job_data.py)."""

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def completion(self) -> Sequence[int]: ...


class SeenRows:
    """Of every row a digest of its tokens, and how many there are. endless: answers that do not end where the engine
    stops."""

    def __init__(self, digests: Iterable[int] = (), tokens: Iterable[int] = (), endless: int = 0) -> None:
        self.digests = array("q", digests)
        self.tokens = array("Q", tokens)
        self.endless = endless

    def add(self, examples: Sequence[Tokens], chat: ChatTokens) -> None:
        """Count a row."""
        self.digests.append(hash(tuple((tuple(one.prompt), tuple(one.completion)) for one in examples)))
        self.tokens.append(sum(len(one.prompt) + len(one.completion) for one in examples))
        self.endless += sum(bool(one.completion) and not chat.ends(one.completion) for one in examples)

    def only(self, indices: Sequence[int]) -> SeenRows:
        """Some of the rows; `endless` stays that of all."""
        return SeenRows(
            (self.digests[index] for index in indices), (self.tokens[index] for index in indices), self.endless
        )


def notes(training: SeenRows, held_out: SeenRows) -> list[str]:
    """Sentences for the owner of the job."""
    result = []
    if training.endless:
        result.append(
            f"{training.endless} of the answers do not end with a token at which the model stops, because its chat "
            "template writes none, so an answer without an end is learned: have the template end answers with the "
            "tokenizer's end of sequence, or set `stop` and `max_tokens` in requests."
        )
    known = set(training.digests)
    if common := sum(digest in known for digest in held_out.digests):
        result.append(
            f"{common} of the {len(held_out.digests)} held-out rows are among the training rows, too, so the numbers "
            "of held-out rows say less of rows that are new to the model. Remove them from one of the two."
        )
    return result
