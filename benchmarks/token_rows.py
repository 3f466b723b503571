"""What our part of a step takes in Python: from the requests of a batch to the table row of each of their tokens.

    python -m benchmarks.token_rows [--model DIRECTORY] [--repeats 300]

Every request has an adapter of its own, which is in the table. Timed is what vLLM's model runners call before a
forward, from their state until the device has the rows; on a GPU that is more than a step waits for, because the copy
runs beside it. Nothing else is prepared: the layers read a token's matrices by its row. Microseconds, medians of
repeats, with the lowest; all sizes and ways are asked in turn.

    first, second    by vLLM's two runners, as our plugin leaves them (adapters/vllm/token_runs.py)
    by token         the same table, with an id written down for every token, as vLLM's own code has it
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.v1.worker.gpu.lora_utils import LoraState
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

from adapters.apply.engine_form import engine_form
from adapters.factors.build import find_or_build_factors
from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vllm.manager import TinyLoRAManager
from adapters.vllm.token_runs import hand_over_runs
from benchmarks.paired import in_turn

SIZES = ((1, 1), (1, 8192), (256, 256), (256, 8192))
WARM_UP = 20
# Beyond the small numbers of which Python keeps an object each.
FIRST_ID = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--repeats", type=int, default=300)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    manager = manager_of(find_or_build_factors(args.model, rank=2), SIZES, device)
    runs = {(size, way): partial(timed, run, device) for size in SIZES for way, run in ways(manager, *size).items()}
    in_turn(runs, WARM_UP)
    print_table(device, in_turn(runs, args.repeats))


def manager_of(factors: Factors, sizes: Sequence[tuple[int, int]], device: torch.device) -> TinyLoRAManager:
    """As an engine makes it, for batches of `sizes`: requests, and tokens of all together."""
    config: Any = SimpleNamespace(
        lora_config=SimpleNamespace(max_loras=max(requests for requests, _ in sizes)),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=max(tokens for _, tokens in sizes)),
        model_config=SimpleNamespace(dtype=torch.float32),
        additional_config={"tinylora": {"factors": str(factors.path), "delta": "auto"}},
    )
    return TinyLoRAManager(config, device)


def ways(manager: TinyLoRAManager, requests: int, tokens: int) -> dict[str, Callable[[], None]]:
    """What vLLM does before a step of `requests` with `tokens` in all, by name; see the module."""
    recipe = default_recipe(manager.factors)
    nothing = Adapter(recipe, manager.factors.digest, "float32", bytes(4 * recipe.num_parameters))
    line = engine_form(nothing, manager.factors)
    loras = [LoRARequest(f"{number}", FIRST_ID + number, line) for number in range(requests)]
    counts = np.full(requests, tokens // requests, dtype=np.int32)
    names, places = [lora.lora_name for lora in loras], np.arange(requests)
    state = LoraState(max_num_reqs=requests)
    for place, lora in enumerate(loras):
        state.add_request(lora.lora_name, place, lora)
    batch: Any = SimpleNamespace(
        num_reqs=requests, request_lora_mapping=state.lora_ids.astype(np.int64),
        lora_id_to_lora_request={lora.lora_int_id: lora for lora in loras},
    )  # fmt: skip
    runner = _runner(manager, state)

    def by_token() -> None:
        prompt, each, active = InputBatch.make_lora_inputs(batch, counts, np.ones_like(counts))
        manager.set_active_adapters(active, LoRAMapping(each, prompt, is_prefill=True))

    return {
        "first": lambda: runner.set_active_loras(batch, counts),
        "second": lambda: runner._set_active_loras(*state.make_lora_inputs(names, places, counts)),
        "by token": by_token,
    }


def _runner(manager: TinyLoRAManager, state: LoraState) -> Any:
    """vLLM's mixin, which the plugin has changed, with the manager and the state of a runner; without a model."""

    class Mixin(LoRAModelRunnerMixin):
        lora_state = state

        def load_lora_model(self, *_unused: Any) -> Any:
            self.lora_manager: Any = manager

    hand_over_runs(Mixin)
    runner: Any = Mixin()
    runner.load_lora_model()
    return runner


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Microseconds, with what the device still has to do."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e6 * (time.perf_counter() - began)


def print_table(device: torch.device, measured: dict[tuple[tuple[int, int], str], list[float]]) -> None:
    table = Table(title=f"our part of a step on {device.type}, microseconds: median (lowest)")
    names = list(dict.fromkeys(way for _, way in measured))
    for column in ("requests", "tokens", *names):
        table.add_column(column, justify="right")
    for size in dict.fromkeys(size for size, _ in measured):
        those = [measured[size, way] for way in names]
        cells = [f"{statistics.median(one):.0f} ({min(one):.0f})" for one in those]
        table.add_row(*(f"{number:,}" for number in size), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
