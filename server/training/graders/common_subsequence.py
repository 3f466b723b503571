"""The length of the longest common subsequence of two sequences, by which fuzzy_match and ROUGE-L compare.

Short ones are left to rapidfuzz. Long ones are computed here: Hyyrö's bit-parallel algorithm ("Bit-parallel LCS-length
computation revisited", 2004) over Python's integers, one bit for each item of the shorter sequence.

Design decision: rapidfuzz is faster, but holds the interpreter's lock from beginning to end, for two seconds with two
texts of 50,000 characters of a large alphabet, and so stops all requests. Python gives the lock up between the steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from rapidfuzz.distance import LCSseq

# Some milliseconds' work of rapidfuzz.
SHORT = 2_000
# An item that is there more often has its positions kept as bits, of which there are as many as items, each time.
RARE = 16


def common_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """How many items the longest common subsequence has."""
    if max(len(first), len(second)) <= SHORT:
        return int(LCSseq.similarity(first, second))
    shorter, longer = sorted((first, second), key=len)
    positions: dict[Hashable, list[int]] = defaultdict(list)
    for position, item in enumerate(shorter):
        positions[item].append(position)
    frequent = {item: _bits(places) for item, places in positions.items() if len(places) > RARE}
    everything = unmatched = (1 << len(shorter)) - 1
    for item in longer:
        if item not in positions:
            continue
        matches = frequent[item] if item in frequent else _bits(positions[item])
        step = unmatched & matches
        unmatched = ((unmatched + step) | (unmatched - step)) & everything
    return len(shorter) - unmatched.bit_count()


def _bits(positions: Sequence[int]) -> int:
    bits = 0
    for position in positions:
        bits |= 1 << position
    return bits
