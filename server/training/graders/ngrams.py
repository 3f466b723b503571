"""BLEU, GLEU and ROUGE of one text against one reference, each from 0 to 1.

    bleu(candidate, reference)     sentence BLEU: Papineni et al. 2002, up to 4-grams, smoothed by method 1 of Chen and
                                   Cherry 2014 (a precision with no match counts 0.1 of a match)
    gleu(candidate, reference)     Wu et al. 2016 (arXiv 1609.08144), section 4.3: the lesser of precision and recall
                                   over all 1- to 4-grams
    rouge_n(candidate, reference)  Lin 2004: F1 over n-grams
    rouge_l(candidate, reference)  Lin 2004: F1 over the longest common subsequence of tokens

BLEU and GLEU keep case, and punctuation marks are tokens; ROUGE lowers case and drops punctuation, as rouge-score does.
Words are not stemmed.

Design decision: no library is used. sacrebleu (2.6.0) has no GLEU and no ROUGE, its sentence BLEU is 0 for answers of
fewer than four tokens, and it needs lxml (12 MB). rouge-score (0.1.2) drops all but the letters a-z and digits, takes
seconds for the ROUGE-L of texts of 20,000 characters, and needs nltk (14 MB).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from server.training.graders.common_subsequence import common_length

BLEU_ORDER = 4
_SMOOTHING = 0.1
_WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")
_WORDS = re.compile(r"[^\W_]+")


def bleu(candidate: str, reference: str) -> float:
    """Smoothed sentence BLEU-4 with the brevity penalty; 0 when no token matches."""
    words, expected = _WORDS_AND_MARKS.findall(candidate), _WORDS_AND_MARKS.findall(reference)
    if not words or not _matches(words, expected, 1):
        return 0.0
    logs = 0.0
    for n in range(1, BLEU_ORDER + 1):
        total = max(1, len(words) - n + 1)
        logs += math.log((_matches(words, expected, n) or _SMOOTHING) / total)
    brevity = min(0.0, 1 - len(expected) / len(words))
    return math.exp(brevity + logs / BLEU_ORDER)


def gleu(candidate: str, reference: str) -> float:
    """Google's sentence BLEU; 0 for two empty texts."""
    words, expected = _WORDS_AND_MARKS.findall(candidate), _WORDS_AND_MARKS.findall(reference)
    orders = range(1, BLEU_ORDER + 1)
    matches = sum(_matches(words, expected, n) for n in orders)
    longest = max(sum(max(0, len(tokens) - n + 1) for n in orders) for tokens in (words, expected))
    return matches / longest if longest else 0.0


def rouge_n(candidate: str, reference: str, n: int) -> float:
    """F1 over the n-grams; 0 when none match."""
    words, expected = _rouge_words(candidate), _rouge_words(reference)
    return _f1(_matches(words, expected, n), len(words) - n + 1, len(expected) - n + 1)


def rouge_l(candidate: str, reference: str) -> float:
    """F1 over the longest common subsequence of words; 0 when it is empty."""
    words, expected = _rouge_words(candidate), _rouge_words(reference)
    return _f1(common_length(words, expected), len(words), len(expected))


def _rouge_words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _matches(words: Sequence[str], expected: Sequence[str], n: int) -> int:
    return (_ngrams(words, n) & _ngrams(expected, n)).total()


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _f1(matches: int, candidates: int, references: int) -> float:
    return 2 * matches / (candidates + references) if matches else 0.0
