"""Which engines adapters are known to work in, and which parts of a model they leave as they are.

What is not known to give every request its adapter's answer is refused before the engine starts: a wrong answer looks
like a right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.models import supports_lora

from adapters.factors.model_files import ModelFiles
from server.launch.start_checks import CannotStart

# Ways to draft tokens. What they draft is of the base model, or of the prompt; the engine verifies it with the adapter.
SPECULATION = ("ngram", "draft_model")
# Connectors that keep blocks of the KV cache elsewhere, as long as this process lives, under the engine's own keys, of
# which the adapter and the tenant's salt are part. Others look them up by their tokens, or fetch them from another
# server: a request would go on from what another adapter, or another tenant's, has computed.
KV_CONNECTORS = ("OffloadingConnector", "SimpleCPUOffloadConnector")
KV_STORES = ("CPUOffloadingSpec",)


def check_adapters_supported(vllm_config: VllmConfig) -> None:
    """CannotStart for an engine in which adapters would not act, or are not known to."""
    model_config, parallel, speculation = (
        vllm_config.model_config,
        vllm_config.parallel_config,
        vllm_config.speculative_config,
    )
    _check_model_class(model_config)
    _check_kv_connector(vllm_config.kv_transfer_config)
    if speculation is not None and speculation.method not in SPECULATION:
        raise CannotStart(
            f"--speculative-config with the method {speculation.method} is not known to keep an adapter's answers: use "
            f"{' or '.join(SPECULATION)}, or leave it out."
        )
    if speculation is not None and parallel.pipeline_parallel_size > 1:
        raise CannotStart(
            f"--speculative-config with --pipeline-parallel-size {parallel.pipeline_parallel_size} has never been "
            "checked to keep an adapter's answers, and vLLM's first model runner ends with both: leave one of them out."
        )
    if parallel.use_ubatching:
        raise CannotStart(
            "--enable-dbo (or --ubatch-size) cuts a batch in two behind the adapters' back, so a request would get "
            "another one's adapter: leave it out."
        )
    if vllm_config.cache_config.kv_sharing_fast_prefill:
        raise CannotStart(
            "--kv-sharing-fast-prefill has the last layers compute some tokens of a prompt only, which would get the "
            "adapters of others: leave it out."
        )
    if vllm_config.offload_config.uva.cpu_offload_gb > 0 or vllm_config.offload_config.prefetch.offload_group_size > 0:
        raise CannotStart(
            "--cpu-offload-gb and --offload-group-size keep weights where the adapters' products cannot reach them: "
            "leave them out, and use --tensor-parallel-size or a quantised model where one GPU is too small."
        )
    for flag, size in (
        ("--prefill-context-parallel-size", parallel.prefill_context_parallel_size),
        ("--decode-context-parallel-size", parallel.decode_context_parallel_size),
    ):
        if size > 1:
            raise CannotStart(
                f"{flag} {size} has never been checked to keep an adapter's answers, as --tensor-parallel-size has: "
                "use that one instead."
            )


def what_is_left_out(files: ModelFiles) -> str | None:
    """A sentence with the parts of the model that adapters do not change; None when they change all linears."""
    if not files.left_out:
        return None
    adapted = dict.fromkeys(_within_layer(weight.module) for weight in files.weights)
    return (
        f"{files.name}: {_listed(files.left_out)} of its layers {'is' if len(files.left_out) == 1 else 'are'} not "
        f"adapted; {_listed(tuple(adapted))} are."
    )


def _check_model_class(model_config: Any) -> None:
    model_class, architecture = model_config.registry.resolve_model_cls(model_config.architectures, model_config)
    if not supports_lora(model_class):
        raise CannotStart(
            f"{architecture} cannot be served with adapters: vLLM does not say of {model_class.__name__} which of its "
            "linears hold which weights (SupportsLoRA). Serve another model."
        )


def _check_kv_connector(transfer: Any) -> None:
    """`transfer`: vLLM's KVTransferConfig, or None."""
    if transfer is None or transfer.kv_connector is None:
        return
    store = transfer.kv_connector_extra_config.get("spec_name", KV_STORES[0])
    if transfer.kv_connector in KV_CONNECTORS and store in KV_STORES:
        return
    keeper = (
        f"The store {store}" if transfer.kv_connector in KV_CONNECTORS else f"The connector {transfer.kv_connector}"
    )
    raise CannotStart(
        f"{keeper} for the KV cache is not known to keep what one adapter or tenant has computed from the requests of "
        "others: leave --kv-transfer-config out. --kv-offloading-size, with the backend native, keeps blocks in the "
        "machine's memory."
    )


def _within_layer(module: str) -> str:
    """`self_attn.q_proj` of model.layers.0.self_attn.q_proj."""
    return module.rpartition("layers.")[2].partition(".")[2]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
