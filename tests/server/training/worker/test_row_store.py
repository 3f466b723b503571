from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from server.training.worker.dataset import read_rows
from server.training.worker.row_store import RowStore

LINE = b'{"messages": [{"role": "user", "content": "%s"}], "n": %d}\n'


@contextmanager
def filled(count: int, chars: int = 4) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        for number in range(count):
            file.write(LINE % (b"x" * chars, number))
        file.seek(0)
        yield cast(BinaryIO, file)


async def test_rows_are_read_where_they_are_in_any_order_and_choice() -> None:
    with filled(20) as file:
        store = RowStore.of(file, read_rows(file, "reinforcement"), lambda line, text: (line, text))
        lines = [(number + 1, LINE % (b"xxxx", number)) for number in range(20)]

        assert await store.read() == lines
        assert await store.read([7, 3, 7]) == [lines[7], lines[3], lines[7]]
        some = store.only([2, 9, 11])
        assert len(some) == 3
        assert await some.read([2, 0]) == [lines[11], lines[2]]
        assert not len(store.only([]))


def test_no_row_of_a_long_file_stays_in_memory() -> None:
    with filled(400, chars=100_000) as file:
        tracemalloc.start()
        try:
            store = RowStore.of(file, read_rows(file, "reinforcement"), lambda line, text: text)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(store) == 400
        assert peak < 4_000_000
