"""vLLM's own tables of CUDA graphs, without a GPU: what would be recorded, and which graph a step would take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config.compilation import CUDAGraphMode
from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher
from vllm.v1.worker.gpu import cudagraph_utils, lora_utils, model_runner
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

from adapters.vllm.graph_cases import dispatch_the_one_case, record_graphs_once

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


class Compilation(SimpleNamespace):
    """What the first runner's dispatcher asks of vLLM's CompilationConfig."""

    cudagraph_specialize_lora, compile_sizes = True, ()
    cudagraph_mode, cudagraph_capture_sizes, max_cudagraph_capture_size = CUDAGraphMode.FULL_AND_PIECEWISE, SIZES, 8

    def is_attention_compiled_piecewise(self) -> bool:
        return True


@pytest.fixture
def dispatcher() -> Iterator[Any]:
    """The first runner's table, as after the recording, of an engine with or without LoRA, ours or not. vLLM's class is
    as before, behind the test."""
    originals = CudagraphDispatcher._get_lora_cases, CudagraphDispatcher._create_padded_batch_descriptor

    class Mixin:
        cudagraph_dispatcher: Any

        def load_lora_model(self, model: Any, vllm_config: Any, device: Any) -> Any:
            return model

    record_graphs_once(Mixin, lambda one: one.is_ours)

    def made(*, lora: bool, is_ours: bool = False) -> CudagraphDispatcher:
        vllm_config = config(lora=lora)
        vllm_config.is_ours, vllm_config.compilation_config, vllm_config.num_speculative_tokens = (
            is_ours,
            Compilation(),
            0,
        )
        vllm_config.scheduler_config = SimpleNamespace(max_num_seqs=4)
        runner = Mixin()
        runner.cudagraph_dispatcher = CudagraphDispatcher(vllm_config)
        runner.load_lora_model("model", vllm_config, "cuda")
        runner.cudagraph_dispatcher.initialize_cudagraph_keys(CUDAGraphMode.FULL_AND_PIECEWISE)
        return runner.cudagraph_dispatcher

    yield made
    CudagraphDispatcher._get_lora_cases, CudagraphDispatcher._create_padded_batch_descriptor = originals  # type: ignore[method-assign]


def recorded(dispatcher: CudagraphDispatcher) -> int:
    return sum(len(graphs) for _, graphs in dispatcher.get_capture_descs())


def test_the_first_runner_too_records_graphs_once(dispatcher: Any) -> None:
    without_lora, ours = dispatcher(lora=False), dispatcher(lora=True, is_ours=True)
    assert recorded(ours) == recorded(without_lora) == len(SIZES) + len(SIZES[:3])
    for adapters in (0, 1, 3, 4, 5):
        for tokens, decode in ((1, True), (3, True), (3, False), (7, False)):
            graph = ours.dispatch(tokens, uniform_decode=decode, has_lora=adapters > 0, num_active_loras=adapters)
            assert graph == without_lora.dispatch(tokens, uniform_decode=decode)
            assert graph[0] == (CUDAGraphMode.FULL if decode else CUDAGraphMode.PIECEWISE)
    assert ours.dispatch(9, has_lora=True, num_active_loras=2)[0] == CUDAGraphMode.NONE


def test_the_first_runner_with_vllms_own_lora_has_both_sets(dispatcher: Any) -> None:
    dispatcher(lora=True, is_ours=True)  # which wraps vLLM's class
    theirs = dispatcher(lora=True)
    assert recorded(theirs) == 2 * recorded(dispatcher(lora=False))
    for adapters, graphs in ((0, 0), (1, 5), (4, 5)):
        _, graph = theirs.dispatch(3, uniform_decode=True, has_lora=adapters > 0, num_active_loras=adapters)
        assert graph.num_active_loras == graphs


def test_wrapping_the_dispatcher_again_does_nothing(dispatcher: Any) -> None:
    dispatcher(lora=True, is_ours=True)
    wrapped = CudagraphDispatcher._get_lora_cases
    dispatch_the_one_case(CudagraphDispatcher, lambda _: False)
    assert CudagraphDispatcher._get_lora_cases is wrapped
