"""vLLM's own table of CUDA graphs, without a GPU: what would be recorded, and which graph a step would take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu import cudagraph_utils, lora_utils, model_runner
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

from adapters.vllm.graph_cases import record_graphs_once

SIZES = [1, 2, 4, 8]


class Table(cudagraph_utils.CudaGraphManager):
    """The table alone, as after the recording."""

    def __init__(self, cases: Sequence[int]) -> None:
        self.vllm_config = config(lora=True)
        self.compilation_config = SimpleNamespace(cudagraph_capture_sizes=SIZES, max_cudagraph_capture_size=8)  # type: ignore[assignment]
        self.cudagraph_mode, self.max_num_reqs, self.decode_query_len = CUDAGraphMode.FULL_AND_PIECEWISE, 4, 1
        self.varlen_decode, self.ubatch_runner, self.lora_capture_cases = False, None, list(cases)
        self._lora_dispatch_map, self._max_lora_case = self._build_lora_dispatch_map()
        self._candidates, self._capture_descs, self._graphs_captured = {}, {}, True
        self._init_candidates()

    @property
    def recorded(self) -> int:
        return sum(map(len, self._capture_descs.values()))

    def graph_of(self, tokens: int, adapters: int, decode: bool) -> BatchExecutionDescriptor:
        return self.dispatch(tokens if decode else 1, tokens, 1 if decode else None, adapters)


def config(*, lora: bool) -> Any:
    return SimpleNamespace(
        lora_config=SimpleNamespace(max_loras=4, specialize_active_lora=False) if lora else None,
        compilation_config=SimpleNamespace(cudagraph_specialize_lora=True),
        speculative_config=None,
        cache_config=SimpleNamespace(use_kda_recoverssm=False),
    )


@pytest.fixture
def cases() -> Iterator[Any]:
    """The cases that a runner has once its model is loaded, by whether the engine is ours. vLLM's class is as before,
    behind the test."""
    original = cudagraph_utils.CudaGraphManager._resolve_effective_loras

    class Mixin:
        def __init__(self, vllm_config: Any) -> None:
            self.lora_capture_cases = lora_utils.get_lora_capture_cases(
                vllm_config.lora_config, vllm_config.compilation_config
            )

        def load_lora_model(self, model: Any, vllm_config: Any, device: Any) -> Any:
            return model

    def after_loading(is_ours: bool) -> list[int]:
        record_graphs_once(Mixin, lambda _: is_ours)
        runner = Mixin(config(lora=True))
        assert runner.load_lora_model("model", config(lora=True), "cuda") == "model"
        return runner.lora_capture_cases

    yield after_loading
    cudagraph_utils.CudaGraphManager._resolve_effective_loras = original  # type: ignore[method-assign]


def test_graphs_are_recorded_once_and_every_step_has_one(cases: Any) -> None:
    without_lora = Table([0])
    ours = Table(cases(is_ours=True))
    assert ours.recorded == without_lora.recorded == len(SIZES) + len(SIZES[:3])
    for adapters in (0, 1, 3, 4, 5):  # vLLM's warm-up says one more than there can be
        for tokens, decode in ((1, True), (3, True), (3, False), (7, False)):
            graph = ours.graph_of(tokens, adapters, decode)
            assert graph == without_lora.graph_of(tokens, 0, decode)
            assert graph.cg_mode == (CUDAGraphMode.FULL if decode else CUDAGraphMode.PIECEWISE)
    assert ours.graph_of(9, 2, False).cg_mode == CUDAGraphMode.NONE


def test_an_engine_with_vllms_own_lora_has_both_sets(cases: Any) -> None:
    theirs = Table(cases(is_ours=False))
    assert theirs.recorded == 2 * Table([0]).recorded
    assert [theirs.graph_of(3, adapters, True).num_active_loras for adapters in (0, 1, 4)] == [0, 5, 5]


def test_the_runner_hands_its_cases_to_the_table() -> None:
    source = inspect.getsource(model_runner.GPUModelRunner)
    assert "lora_capture_cases=self.lora_capture_cases" in source, (
        "vLLM's second runner no longer has the cases that it records graphs for: see adapters/vllm/graph_cases.py"
    )
