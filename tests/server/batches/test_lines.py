"""Lines of a file that comes in pieces, wherever these are cut."""

import json
import tracemalloc
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from server.batches.lines import lines_of

FUZZ = settings(max_examples=200, deadline=None, derandomize=True)
TEXTS = st.lists(st.sampled_from([b"", b" ", b"a", b"abcd", b"abcde", b"abcdefghij" * 3, b"\r"]), max_size=8)


@FUZZ
@given(TEXTS, st.lists(st.integers(0, 60), max_size=6))
def test_lines_are_those_of_the_whole_whatever_the_pieces(texts: list[bytes], cuts: list[int]) -> None:
    whole = b"\n".join(texts)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[begin:end] for begin, end in pairwise(places)]
    expected = [
        (number, None if len(text) > 4 else text)
        for number, text in enumerate(whole.split(b"\n"), start=1)
        if len(text) > 4 or text.strip()
    ]
    assert list(lines_of(pieces, longest=4)) == expected


def test_a_file_of_200_mib_takes_no_more_memory_than_its_pieces() -> None:
    line = json.dumps({"custom_id": "x", "body": "y" * 10_000}).encode() + b"\n"
    piece = line * (2**20 // len(line))
    tracemalloc.start()
    count = sum(1 for _ in lines_of(piece for _ in range(200)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200 * (2**20 // len(line))
    assert peak < 4 * 2**20
