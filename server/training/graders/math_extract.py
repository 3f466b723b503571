r"""Finding the final answer in a completion, or in a worked solution.

    boxed        what is inside the last \boxed{...} (or \fbox{...}) whose braces close
    hashes       what follows the last "####" on its line, as GSM8K writes answers; where nothing does, the next line
    last_number  the last number: 1,234.5 or -3/4 or 12%

Which extractor found the answer is part of the result: a reward that also takes the last number teaches less format
than one that wants a box, and scores of the two are not comparable. Extraction parses no mathematics and takes time
linear in the length of the text.

Design decision: "####" is also a heading of Markdown, and models write their steps below such ones. One that begins
with a word, or with a number as "1. " and a word, and has text behind it is a heading, not an answer: else
"#### Conclusion" would be the answer of a solution that ends in the right number. "#### Final answer: 42" is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Extractor = Literal["boxed", "hashes", "last_number"]
ALL: tuple[Extractor, ...] = ("boxed", "hashes", "last_number")

_BOX = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{")
_WORD = re.compile(r"\**(?:\(?\d{1,2}[.)]\s+\**)?[^\W\d_]{2,}(?:[\s:.,'&*-]|$)")
_SAYS = re.compile(r"\banswer\**\s*(?::|=|is\b)[\s*:=]*", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?!\d)")


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer as written, and the extractor that found it."""

    text: str
    extractor: Extractor


def extract(text: str, extractors: Sequence[Extractor] = ALL) -> Answer | None:
    """The answer by the first of `extractors` that finds one, else None."""
    for extractor in extractors:
        if found := _EXTRACTORS[extractor](text):
            return Answer(found, extractor)
    return None


def _boxed(text: str) -> str | None:
    answer = None
    position = 0
    while match := _BOX.search(text, position):
        end = _closing_brace(text, match.end())
        if end is None:
            break  # Whatever opens later inside it is no answer either.
        answer = text[match.end() : end].strip()
        position = end
    return answer


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    escaped = False
    for position in range(start, len(text)):
        character = text[position]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return position
    return None


def _hashes(text: str) -> str | None:
    behind = ""
    for line in reversed(text.split("\n")):
        _, found, rest = line.rpartition("####")
        answer = rest.strip() or behind
        if found and answer and not (behind and _is_heading(rest.strip())):
            return answer
        behind = line.strip() or behind
    return None


def _is_heading(line: str) -> bool:
    """Whether it begins with a word, and does not say the answer."""
    said = _SAYS.search(line)
    answer = "" if said is None else line[said.end() :]
    says_it = any(map(str.isdigit, answer)) or (answer and not _WORD.match(answer))
    return bool(_WORD.match(line)) and not says_it


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


_EXTRACTORS: Mapping[Extractor, Callable[[str], str | None]] = MappingProxyType(
    {"boxed": _boxed, "hashes": _hashes, "last_number": _last_number}
)
