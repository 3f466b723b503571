"""The table of matrices: one row per adapter lately used, with the matrices of all modules of the model side by side.

A row is copied from what its request carries (engine_form.py) and may be dropped at any time outside a batch, because
copying it again is cheap. Row 0 is always zero and means "no adapter"; row 1 is for an adapter that cannot be read.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from vllm.utils.torch_utils import async_tensor_h2d

from adapters.apply.engine_form import read_engine_form
from adapters.factors.factors import Factors
from adapters.vector.errors import AdapterError, FactorsError

NO_ADAPTER_ROW = 0
NOISE_ROW = 1
RESERVED_ROWS = 2
# Large enough to spoil any answer, and small enough not to overflow: infinities would stay in the KV cache.
NOISE = 1e3

logger = logging.getLogger("vllm.tinylora")


class Request(Protocol):
    """The fields of vLLM's LoRARequest that the table reads."""

    lora_int_id: int
    lora_path: str


class MatrixTable:
    """The table. values_SE: float32 (rows, modules * r * r), columns in the order of `factors.modules`."""

    def __init__(self, factors: Factors, rows: int, device: torch.device) -> None:
        self.factors = factors
        self.module_size = factors.rank**2
        self.values_SE = torch.zeros(rows, len(factors.modules) * self.module_size, device=device)
        self.values_SE[NOISE_ROW] = NOISE
        self.free = list(range(rows - 1, RESERVED_ROWS - 1, -1))
        self.entries: OrderedDict[int, tuple[int, str]] = (
            OrderedDict()
        )  # id -> (row, what it was copied from), oldest use first

    def columns(self, names: Sequence[str]) -> slice:
        """The n * r * r columns of n modules. FactorsError unless they are neighbours in the factors' order."""
        positions = [self.factors.modules.index(name) for name in names]
        if positions != list(range(positions[0], positions[0] + len(names))):
            raise FactorsError(f"Modules packed into one linear must be neighbours in the factors, got {list(names)}.")
        return slice(positions[0] * self.module_size, (positions[-1] + 1) * self.module_size)

    def rows_for(self, requests: Collection[Request]) -> dict[int, int]:
        """The row of every adapter of one batch, by lora_int_id; rows that are missing are copied.

        NOISE_ROW, and an error in the log, for an adapter that cannot be read or belongs to other factors.
        """
        rows: dict[int, int] = {}
        missing = []
        entries, touch = self.entries, self.entries.move_to_end
        # Known rows first, so that copying the missing ones evicts none of this batch. This runs before every step, for
        # each of its requests, so it calls nothing of ours.
        for request in requests:
            adapter_id, path = request.lora_int_id, request.lora_path
            entry = entries.get(adapter_id)
            if entry is None or entry[1] != path:
                missing.append(request)
                continue
            if entry[1] is not path:
                # That of this request is kept: its next step compares it with itself, and not with an equal megabyte.
                entries[adapter_id] = (entry[0], path)
            touch(adapter_id)
            rows[adapter_id] = entry[0]
        for request in missing:
            rows[request.lora_int_id] = self._copy(request)
        return rows

    def add_dummy(self, request: Request) -> None:
        """Take the id of a warm-up request, whose path names no adapter, for that of no adapter.

        Idle ranks of data parallel engines make as many of them as there can be, in every step.
        """
        self.forget(request.lora_int_id)
        self.entries[request.lora_int_id] = (NO_ADAPTER_ROW, request.lora_path)

    def _copy(self, request: Request) -> int:
        """Give the request a row with its matrices; NOISE_ROW when they cannot be read."""
        try:
            values_MRR = read_engine_form(request.lora_path, self.factors)
        except AdapterError:
            logger.exception("TinyLoRA: the adapter %d cannot be read", request.lora_int_id)
            return NOISE_ROW
        row = self._take_row(request)
        async_tensor_h2d(values_MRR.reshape(-1), out=self.values_SE[row])
        return row

    def _take_row(self, request: Request) -> int:
        self.forget(request.lora_int_id)
        while not self.free:
            self.forget(next(iter(self.entries)))
        row = self.free.pop()
        self.entries[request.lora_int_id] = (row, request.lora_path)
        return row

    def forget(self, adapter_id: int) -> bool:
        """Free the row of an adapter; False when it has none."""
        entry = self.entries.pop(adapter_id, None)
        if entry is not None and entry[0] != NO_ADAPTER_ROW:
            self.free.append(entry[0])
        return entry is not None

    def clear(self) -> None:
        for adapter_id in list(self.entries):
            self.forget(adapter_id)

    def ids(self) -> set[int]:
        return set(self.entries)
