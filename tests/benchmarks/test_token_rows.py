"""Our part of an engine's step in Python: nothing of it grows with the tokens, by vLLM's own runners' functions."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adapters.factors.factors import Factors

pytest.importorskip("vllm")

from adapters.vllm.matrix_table import NO_ADAPTER_ROW, NOISE_ROW, RESERVED_ROWS
from adapters.vllm.token_runs import TokenRuns
from benchmarks.paired import in_turn
from benchmarks.token_rows import manager_of, print_table, timed, ways

CPU = torch.device("cpu")
REQUESTS, FEW, MANY = 16, 16, 8192
NUMPY_BYTES = 8  # of a token's row, int64


def instructions(run: Callable[[], None]) -> int:
    """Of Python, in all functions that `run` calls, the second time in turn."""
    counted = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    run()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return counted


class Operations(TorchDispatchMode):
    """Counts those of torch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(run: Callable[[], None]) -> int:
    with Operations() as found:
        run()
    return found.count


def most_bytes(run: Callable[[], None]) -> int:
    """That objects of Python and arrays of numpy take at once while it runs."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("way", ["first", "second"])
def test_a_step_of_many_tokens_does_in_python_what_one_of_few_does(factors: Factors, way: str) -> None:
    manager = manager_of(factors, [(REQUESTS, MANY)], CPU)
    few, many = (ways(manager, REQUESTS, tokens) for tokens in (FEW, MANY))
    for run in (many[way], few[way]):  # which writes the table, and then clears behind a longer batch
        run()
    rows_T = manager.slots_T[:REQUESTS].clone()
    assert len(set(rows_T.tolist())) == REQUESTS and rows_T.min() >= RESERVED_ROWS
    assert not manager.slots_T[FEW:].any()
    assert instructions(few[way]) == instructions(many[way]) > 0
    assert operations(few[way]) == operations(many[way]) > 0
    # Also what numpy or Python do inside: a tuple or list of numbers takes more than 32 bytes for each.
    assert most_bytes(many[way]) - most_bytes(few[way]) < 2 * NUMPY_BYTES * (MANY - FEW)
    # vLLM's own way, beside which the benchmark has ours, is told from that.
    assert most_bytes(many["by token"]) - most_bytes(few["by token"]) > 4 * NUMPY_BYTES * (MANY - FEW)
    many[way]()
    assert torch.equal(manager.slots_T, rows_T.repeat_interleave(MANY // REQUESTS))


def test_tokens_without_an_adapter_have_row_zero_and_those_whose_request_is_missing_noise(factors: Factors) -> None:
    manager = manager_of(factors, [(4, 8)], CPU)
    manager.set_runs([], TokenRuns(np.array([0, 7, 0]), np.array([2, 3, 1])))
    assert manager.slots_T.tolist() == [NO_ADAPTER_ROW] * 2 + [NOISE_ROW] * 3 + [NO_ADAPTER_ROW] * 3


def test_its_table_has_a_line_for_every_size(factors: Factors, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ((1, 1), (2, 8))
    manager = manager_of(factors, sizes, CPU)
    runs = {(size, way): run for size in sizes for way, run in ways(manager, *size).items()}
    print_table(CPU, in_turn({name: lambda run=run: timed(run, CPU) for name, run in runs.items()}, 2))
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line[1:3]] for line in lines] == [["1", "1"], ["2", "8"]]
    assert all("(" in cell for line in lines for cell in line[3:6])
