"""The engine's adapter manager: tells the model's layers which row of the table of matrices each token uses.

No adapter is loaded. It arrives inside the LoRARequest of the request that uses it, and the first time that it enters a
batch its r x r matrices are written to one row of a table. The table is only a cache: a row that was given to another
adapter is copied again from the next request.

This implements the part of vLLM's worker LoRA manager that vLLM's model runners call. It does not touch disk, base
weights or the database.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.utils.torch_utils import async_tensor_h2d

from adapters.factors.factors import Factors, open_factors
from adapters.factors.kept_scales import through_scales
from adapters.vector.errors import FactorsError
from adapters.vllm.delta import DELTAS
from adapters.vllm.layer import install
from adapters.vllm.matrix_table import NO_ADAPTER_ROW, NOISE_ROW, RESERVED_ROWS, MatrixTable
from adapters.vllm.model_linears import adapted_linears, layer_factors
from adapters.vllm.token_runs import TokenRuns

logger = init_logger("vllm.tinylora")

NO_ADAPTER_ID = 0  # vLLM's

# For rows beyond what one batch can need, which saves copying adapters that come back. A row is modules * r * r numbers
# in float32: 3 kB of a 7B at rank 2, and 570 kB of a 70B at rank 16.
CACHED_ROWS, CACHED_BYTES = 1024, 64 * 2**20


def _factors_of(options: dict[str, Any]) -> Factors:
    """Of the engine's options, read on the machine of this process. FactorsError says which machine that is."""
    try:
        factors = open_factors(options["factors"])
        return through_scales(factors, Path(options["scales"])) if "scales" in options else factors
    except (FactorsError, OSError) as error:
        raise FactorsError(
            f"{error} (on the machine {socket.gethostname()}; an engine over several machines needs it on each, at the "
            "same path)"
        ) from error


def cached_rows(factors: Factors) -> int:
    """How many rows of adapters that run in no batch are kept, at most CACHED_BYTES of them."""
    return min(CACHED_ROWS, CACHED_BYTES // (len(factors.modules) * factors.rank**2 * 4))


class TinyLoRAManager:
    """Takes the place of vLLM's LRUCacheWorkerLoRAManager in every worker process."""

    is_enabled = True

    def __init__(
        self, vllm_config: VllmConfig, device: torch.device, embedding_modules: dict[str, str] | None = None
    ) -> None:
        assert vllm_config.lora_config is not None
        self.device = device
        options = vllm_config.additional_config["tinylora"]
        self.factors = _factors_of(options)
        rows = RESERVED_ROWS + vllm_config.lora_config.max_loras + cached_rows(self.factors)
        self.table = MatrixTable(self.factors, rows, device)
        self.delta = DELTAS[options["delta"]]
        max_tokens = vllm_config.scheduler_config.max_num_batched_tokens
        self.dtype = vllm_config.model_config.dtype
        self.slots_T = torch.full((max_tokens,), NO_ADAPTER_ROW, dtype=torch.int64, device=device)
        self.written_tokens = 0

    def create_lora_manager(self, model: nn.Module, vllm_config: VllmConfig) -> nn.Module:
        """Install the delta in every linear of `model` that has factors; returns the same model.

        FactorsError as `adapted_linears`.
        """
        linears = adapted_linears(model, self.factors)
        for layer, names in linears:
            table_SE = self.table.values_SE[:, self.table.columns(names)]
            factors = layer_factors(layer, names, self.factors, self.device)
            install(layer, factors, table_SE, self.slots_T, self.delta, self.dtype)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # weights that were replaced by longer ones
        modules = sum(len(names) for _, names in linears)
        logger.info(
            "TinyLoRA: %d of %d modules adapted, rank %d", modules, len(self.factors.modules), self.factors.rank
        )
        return model

    def set_active_adapters(self, requests: set[LoRARequest], mapping: LoRAMapping | None) -> None:
        """As `set_runs`, token by token: vLLM's warm-up and its recording of graphs."""
        if mapping is not None:
            ids = np.asarray(mapping.index_mapping, dtype=np.int64)
            self.set_runs(requests, TokenRuns(ids, np.ones_like(ids)))

    def set_runs(self, requests: Collection[LoRARequest], runs: TokenRuns) -> None:
        """Give every token of the coming forward the slot of its request's adapter.

        Never raises for an adapter, because an exception here would end the engine and all requests in it. What cannot
        be read was refused before (request_check.py); if it arrives all the same, its own answer becomes noise.
        """
        rows = self.table.rows_for(requests)
        rows[NO_ADAPTER_ID] = NO_ADAPTER_ROW
        ids = runs.ids.tolist()
        for adapter_id in set(ids).difference(rows):
            logger.error("TinyLoRA: adapter %d is in the batch, and its request is not", adapter_id)
            rows[adapter_id] = NOISE_ROW
        slots = np.fromiter(map(rows.__getitem__, ids), np.int64, len(ids)).repeat(runs.tokens)
        used, dirty = len(slots), self.written_tokens
        # From memory of this step's own, because the step before may still be read while this one is prepared.
        async_tensor_h2d(slots, out=self.slots_T[:used])
        # Graphs are padded, so slots left by a longer batch before must mean "no adapter".
        self.slots_T[used:dirty].fill_(NO_ADAPTER_ROW)
        self.written_tokens = used

    def add_adapter(self, request: LoRARequest) -> bool:
        self.table.rows_for({request})
        return True

    def add_dummy_lora(self, request: LoRARequest, rank: int) -> bool:
        self.table.add_dummy(request)
        return True

    def remove_adapter(self, adapter_id: int) -> bool:
        return self.table.forget(adapter_id)

    def remove_all_adapters(self) -> None:
        self.table.clear()

    def list_adapters(self) -> set[int]:
        return self.table.ids()

    def pin_adapter(self, adapter_id: int) -> bool:
        # Nothing is ever unloaded, so there is nothing to pin; vLLM asks whether it could be.
        return adapter_id in self.table.ids()

    @contextmanager
    def dummy_lora_cache(self) -> Iterator[None]:
        yield

    def get_dummy_lora_warmup_rank(self, default_rank: int) -> int:
        return default_rank

    def supports_tower_connector_lora(self) -> bool:
        return False
