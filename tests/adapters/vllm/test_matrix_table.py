from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from adapters.factors.factors import Factors

pytest.importorskip("vllm")

from adapters.vllm.manager import CACHED_BYTES, CACHED_ROWS, cached_rows
from adapters.vllm.matrix_table import NO_ADAPTER_ROW, RESERVED_ROWS, MatrixTable


@dataclass
class Warmup:
    lora_int_id: int
    lora_path: str = "dummy"


def factors_of(modules: int, rank: int) -> Factors:
    fields: dict[str, Any] = {"modules": tuple(map(str, range(modules))), "rank": rank}
    made = object.__new__(Factors)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def test_warming_up_takes_no_rows_and_gives_none_away() -> None:
    table = MatrixTable(factors_of(3, 2), RESERVED_ROWS + 4, torch.device("cpu"))
    free = list(table.free)
    for number in range(1, 100):
        table.add_dummy(Warmup(number))
    assert table.ids() == set(range(1, 100)) and table.free == free
    assert {row for row, _ in table.entries.values()} == {NO_ADAPTER_ROW}
    assert not table.values_SE[NO_ADAPTER_ROW].any()
    for _ in range(4):
        table._take_row(Warmup(1000 + len(table.free)))
    assert table._take_row(Warmup(2000)) >= RESERVED_ROWS, "behind all dummies"
    table.clear()
    assert sorted(table.free) == sorted(free)


@pytest.mark.parametrize(("modules", "rank", "rows"), [(196, 2, CACHED_ROWS), (560, 16, 117), (560, 64, 7)])
def test_rows_that_are_kept_take_no_more_than_their_bytes(modules: int, rank: int, rows: int) -> None:
    factors = factors_of(modules, rank)
    assert cached_rows(factors) == rows
    assert rows * modules * rank**2 * 4 <= CACHED_BYTES


def test_an_adapter_of_megabytes_is_compared_with_itself_from_its_requests_second_step_on() -> None:
    table = MatrixTable(factors_of(3, 2), RESERVED_ROWS + 4, torch.device("cpu"))
    table._take_row(Warmup(1, "matrices"))
    again = Warmup(1, "".join(["mat", "rices"]))  # equal, and another object
    table.rows_for([again])
    assert table.entries[1][1] is again.lora_path
