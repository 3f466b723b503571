"""What a batch holds in memory depends on none of: how many lines it has, how long they are, how long their answers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batches.lines import some, without
from server.batches.results import answered_lines, stored_results
from server.db.batch_tables import BATCH_RESULTS
from server.db.database import Database
from tests.server.batches.conftest import Batches

MIB = 2**20
FUZZ = settings(max_examples=200, deadline=None, derandomize=True)


def store(database: Database, batch_id: str, lines: Iterable[int], data: Callable[[int], str]) -> None:
    def insert(connection: sa.Connection) -> None:
        for line in lines:
            row = {"batch_id": batch_id, "line": line, "is_error": line % 10 == 0, "data": data(line)}
            connection.execute(BATCH_RESULTS.insert().values(row))

    database.transact(insert)


def most_bytes(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_answers_are_read_in_order_whatever_their_lengths(batches: Batches) -> None:
    database, batch_id = batches.database, batches.new()
    store(database, batch_id, range(1, 60), lambda line: f"{line} " + "x" * (MIB if line % 3 else 10))
    assert list(answered_lines(database, batch_id)) == list(range(1, 60))
    for errors in (False, True):
        read = [int(text.split()[0]) for text in stored_results(database, batch_id, errors=errors)]
        assert read == [line for line in range(1, 60) if (line % 10 == 0) == errors]
    assert most_bytes(lambda: sum(1 for _ in stored_results(database, batch_id, errors=False))) < 20 * MIB


@FUZZ
@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_lines_are_asked_that_have_no_answer(lines: set[int], answered: set[int]) -> None:
    left = without(((number, b"") for number in sorted(lines)), iter(sorted(answered)))
    assert [number for number, _ in left] == sorted(lines - answered)


@FUZZ
@given(st.lists(st.binary(max_size=5)))
def test_all_items_are_taken_a_few_at_a_time(items: list[bytes]) -> None:
    rest, taken = iter(items), []
    while now := some(rest, lambda item: len(item) * 2**18):
        assert sum(map(len, now[:-1])) * 2**18 < MIB
        taken += now
    assert taken == items
