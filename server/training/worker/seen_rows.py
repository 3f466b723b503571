"""What is noticed about the rows of a job while they are checked, and no reason to refuse them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from server.training.graders.template import Variable
from server.training.worker.chat_tokens import ChatTokens

# So many variables, by so many characters each, are named in a sentence.
NAMED, NAME_CHARS = 10, 100


class Tokens(Protocol):
    """An example (job_data.py)."""

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def completion(self) -> Sequence[int]: ...


class SeenRows:
    """Of every row a digest of its tokens, and how many there are. endless: answers that do not end where the engine
    stops. empty: of the grader's variables, rows in which they are null or an empty text."""

    def __init__(self, digests: Iterable[int] = (), tokens: Iterable[int] = ()) -> None:
        self.digests = array("q", digests)
        self.tokens = array("Q", tokens)
        self.endless = 0
        self.empty = Counter[Variable]()

    def add(self, examples: Sequence[Tokens], chat: ChatTokens) -> None:
        """Count a row."""
        self.digests.append(hash(tuple((tuple(one.prompt), tuple(one.completion)) for one in examples)))
        self.tokens.append(sum(len(one.prompt) + len(one.completion) for one in examples))
        self.endless += sum(bool(one.completion) and not chat.ends(one.completion) for one in examples)

    def add_item(self, item: Mapping[str, Any], variables: Collection[Variable]) -> None:
        """Count what a row has for the grader, which is all of `variables`."""
        self.empty.update(variable for variable in variables if variable.look_up(item) in (None, ""))

    def split(self, kept: Sequence[int], held_out: Sequence[int]) -> tuple[SeenRows, SeenRows]:
        """These rows and those; `endless` and `empty`, which are of all, go with the first."""
        first, second = (
            SeenRows((self.digests[index] for index in part), (self.tokens[index] for index in part))
            for part in (kept, held_out)
        )
        first.endless, first.empty = self.endless, self.empty
        return first, second


def notes(training: SeenRows, held_out: SeenRows) -> list[str]:
    """Sentences for the owner of the job."""
    result = []
    if training.endless:
        result.append(
            f"{training.endless} of the answers do not end with a token at which the model stops, because its chat "
            "template writes none, so an answer without an end is learned: have the template end answers with the "
            "tokenizer's end of sequence, or set `stop` and `max_tokens` in requests."
        )
    result += [
        f"In rows of the {file} is null or an empty text: {_counted(seen.empty)}. The grader gets it so, and may "
        "compare answers with the word null, or with nothing. If it is the right answer, fill it in, or remove these "
        "rows."
        for file, seen in (("training_file", training), ("validation_file", held_out))
        if seen.empty
    ]
    known = set(training.digests)
    if common := sum(digest in known for digest in held_out.digests):
        result.append(
            f"{common} of the {len(held_out.digests)} held-out rows are among the training rows, too, so the numbers "
            "of held-out rows say less of rows that are new to the model. Remove them from one of the two."
        )
    return result


def _counted(rows: Counter[Variable]) -> str:
    """The variables of most rows, with how many."""
    named = [f"{str(variable)[:NAME_CHARS]} (in {count})" for variable, count in rows.most_common(NAMED)]
    more = len(rows) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
