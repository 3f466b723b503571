"""vLLM's entry point into TinyLoRA: the one seam, and the options by which an engine uses it.

One module global of vLLM (`LRUCacheWorkerLoRAManager`, from which every model runner builds its adapter manager) is
replaced by a factory that returns our manager when the engine's `additional_config` names factors, and vLLM's own
otherwise. vLLM calls `register` in every process before a model loads; no model is touched until an engine asks for
adapters. tests/adapters/vllm/test_seam.py fails with a sentence when a vLLM upgrade moves the seam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.factors.factors import Factors

VLLM_VERSION = "0.32.0"
# Part of vLLM's compile-cache key: raise it when what is traced into a graph changes.
GRAPH_VERSION = 4

# How much Inductor computes again where it is used before it stores it. With its own limits (8 reads, 30 operations) it
# would store W x plus the delta, in a pass of its own, and read it again for what follows.
FUSION_LIMITS = {"realize_reads_threshold": 64, "realize_opcount_threshold": 400}


def engine_options(factors: Factors, max_num_seqs: int, delta: str = "auto") -> dict[str, Any]:
    """Keyword arguments for vLLM's `LLM` or `EngineArgs` that enable an adapter per request. `delta`: see delta.py.

    `max_loras` equals `max_num_seqs`, so that the scheduler never delays a request because of its adapter.
    """
    return {**adapter_options(factors, delta), "max_loras": max_num_seqs, "max_num_seqs": max_num_seqs}


def adapter_options(factors: Factors, delta: str = "auto") -> dict[str, Any]:
    """As `engine_options` when `max_num_seqs` is not known yet; the caller then sets `max_loras` later."""
    # The worker processes read it, and vLLM hashes it into its compile-cache key.
    tinylora = {
        "factors": str(factors.path),
        "digest": factors.digest,
        "rank": factors.rank,
        "modules": len(factors.modules),
        "graph_version": GRAPH_VERSION,
        "delta": delta,
    }
    if factors.scales is not None:
        tinylora["scales"] = str(factors.scales)
    options: dict[str, Any] = {
        "enable_lora": True,
        "max_lora_rank": 1,  # sizes vLLM's own LoRA buffers, which are never made
        "additional_config": {"tinylora": tinylora},
    }
    if limits := fusion_limits():
        options["compilation_config"] = {"inductor_compile_config": limits}
    return options


def fusion_limits() -> dict[str, Any]:
    """What Inductor is to be told on this platform; on a CPU its own limits are right."""
    from vllm.platforms import current_platform

    return dict(FUSION_LIMITS) if current_platform.is_cuda_alike() else {}


def register() -> None:
    """Called by vLLM in the API process, the engine core and every worker. Calling it again does nothing."""
    from vllm.model_executor.layers.fused_moe import layer as fused_moe_layer
    from vllm.platforms import current_platform
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.worker import lora_model_runner_mixin as mixin

    from adapters.vllm.block_keys import hash_adapters_once
    from adapters.vllm.expert_kernels import keep_expert_kernels
    from adapters.vllm.graph_cases import record_graphs_once
    from adapters.vllm.orphans import end_with_parent
    from adapters.vllm.own_group import leave_group_of_parent
    from adapters.vllm.ray_environment import keep_secrets_here
    from adapters.vllm.request_check import refuse_unusable_adapters
    from adapters.vllm.token_runs import hand_over_runs

    keep_secrets_here()
    if getattr(mixin.LRUCacheWorkerLoRAManager, "is_tinylora_seam", False):
        return
    mixin.LRUCacheWorkerLoRAManager = _manager_factory(mixin.LRUCacheWorkerLoRAManager)
    hand_over_runs(mixin.LoRAModelRunnerMixin)
    record_graphs_once(mixin.LoRAModelRunnerMixin, is_enabled)
    hash_adapters_once(kv_cache_utils)
    keep_expert_kernels(fused_moe_layer, is_enabled)
    refuse_unusable_adapters(EngineCore)
    leave_group_of_parent()
    end_with_parent()
    if current_platform.is_cpu():
        from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
        from vllm.v1.kv_cache_interface import KVCacheConfig
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        from adapters.vllm.clean_blocks import zero_blocks_of_float16
        from adapters.vllm.cpu_seeds import keep_seeds_of_partly_read_prompts
        from adapters.vllm.cpu_stages import make_buffers_of_stages
        from adapters.vllm.cpu_waiting import pause_while_waiting

        pause_while_waiting(SpinCondition)
        zero_blocks_of_float16(KVCacheConfig)
        keep_seeds_of_partly_read_prompts(CPUModelRunner)
        make_buffers_of_stages(CPUModelRunner)
        _keep_compilation_on_cpu(type(current_platform))
        _read_saved_graphs_on_cpu()


def is_enabled(vllm_config: Any) -> bool:
    """Whether the engine of this VllmConfig applies TinyLoRA adapters."""
    config = vllm_config.additional_config
    return vllm_config.lora_config is not None and isinstance(config, dict) and "tinylora" in config


def _manager_factory(vllm_manager: Any) -> Any:
    def manager(vllm_config: Any, device: Any, embedding_modules: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_enabled(vllm_config):
            return vllm_manager(vllm_config, device, embedding_modules, *args, **kwargs)
        from adapters.vllm.manager import TinyLoRAManager

        return TinyLoRAManager(vllm_config, device, embedding_modules)

    manager.is_tinylora_seam = True  # type: ignore[attr-defined]
    return manager


def _keep_compilation_on_cpu(platform: Any) -> None:
    """vLLM's CPU platform disables compilation for any LoRA config, because its LoRA kernels cannot be traced there.

    Ours can, so the LoRA config is hidden while the platform decides.
    """
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls: type, vllm_config: Any) -> None:
        if not is_enabled(vllm_config):
            original(cls, vllm_config)
            return
        vllm_config.additional_config["tinylora"]["cpu"] = _cpu_features()
        lora_config, vllm_config.lora_config = vllm_config.lora_config, None
        try:
            original(cls, vllm_config)
        finally:
            vllm_config.lora_config = lora_config

    platform.check_and_update_config = classmethod(check_and_update_config)


def _cpu_features() -> list[str]:
    """The capabilities of this CPU, for vLLM's compile-cache key, which holds only the name of a GPU.

    A saved graph has the vector width and instructions of the machine that compiled it, and gives wrong numbers, or
    none, on another.
    """
    import torch

    return sorted(name for name, present in torch.cpu.get_capabilities().items() if present is True)


def _read_saved_graphs_on_cpu() -> None:
    """vLLM saves the graphs of a CPU but cannot load them again, and would compile at every start.

    It calls `finalize_loading` on a loaded graph, which only graphs of its GPU backend have. A graph of torch's own has
    nothing to finalize.
    """
    from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable

    original = BundledAOTAutogradSerializableCallable.deserialize_compile_artifacts.__func__  # type: ignore[attr-defined]

    def deserialize_compile_artifacts(cls: type, data: bytes) -> Any:
        graph = original(cls, data)
        graph.finalize_loading = lambda vllm_config: None
        return graph

    BundledAOTAutogradSerializableCallable.deserialize_compile_artifacts = classmethod(  # type: ignore[assignment, method-assign]
        deserialize_compile_artifacts
    )
