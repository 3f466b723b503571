"""Engines in which adapters are not known to work do not start, and the sentence says which flag or model it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, StableLmConfig
from vllm.config import KVTransferConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from adapters.factors.model_files import read_model
from server.launch.adapter_support import check_adapters_supported, what_is_left_out
from server.launch.start_checks import CannotStart
from tests.adapters.families import SHAPE, save_family


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def vllm_config(llama: Path) -> VllmConfig:
    return configured(llama)


def configured(model: Path, **options: Any) -> VllmConfig:
    return AsyncEngineArgs(str(model), skip_tokenizer_init=True, dtype="float32", **options).create_engine_config()


def test_a_plain_engine_may_start(vllm_config: VllmConfig) -> None:
    check_adapters_supported(vllm_config)


def test_speculation_by_ngrams_or_a_draft_model_may_start_and_others_not(llama: Path) -> None:
    config = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    allowed = configured(llama, speculative_config=config)
    check_adapters_supported(allowed)
    assert allowed.speculative_config is not None
    allowed.speculative_config.method = "eagle3"  # there is no such draft for this model
    with pytest.raises(CannotStart, match=r"--speculative-config with the method eagle3 .* ngram or draft_model"):
        check_adapters_supported(allowed)


@pytest.mark.parametrize(
    "options", [{"cpu_offload_gb": 1}, {"offload_group_size": 2, "offload_num_in_group": 1}], ids=["uva", "prefetch"]
)
def test_weights_that_are_elsewhere_are_refused(llama: Path, options: dict[str, Any]) -> None:
    with pytest.raises(CannotStart, match=r"--cpu-offload-gb and --offload-group-size"):
        check_adapters_supported(configured(llama, **options))


def test_layers_that_see_some_tokens_only_are_refused(llama: Path) -> None:
    with pytest.raises(CannotStart, match=r"--kv-sharing-fast-prefill"):
        check_adapters_supported(configured(llama, kv_sharing_fast_prefill=True))


@pytest.mark.parametrize(
    ("connector", "extra", "told"),
    [
        ("ExampleConnector", {"shared_storage_path": "/nowhere"}, "The connector ExampleConnector"),
        ("LMCacheMPConnector", {}, "The connector LMCacheMPConnector"),
        ("NixlConnector", {}, "The connector NixlConnector"),
        ("OffloadingConnector", {"spec_name": "TieringOffloadingSpec"}, "The store TieringOffloadingSpec"),
        ("OffloadingConnector", {}, None),
        ("SimpleCPUOffloadConnector", {"spec_name": "CPUOffloadingSpec"}, None),
    ],
)
def test_a_kv_cache_elsewhere_is_kept_by_adapter_and_tenant_or_refused(
    vllm_config: VllmConfig, connector: str, extra: dict[str, Any], told: str | None
) -> None:
    transfer = KVTransferConfig(kv_connector=connector, kv_role="kv_both", kv_connector_extra_config=extra)
    config = replace(vllm_config, kv_transfer_config=None)
    config.kv_transfer_config = transfer  # behind vLLM's own checks, which want packages and GPUs
    if told is None:
        check_adapters_supported(config)
    else:
        with pytest.raises(CannotStart, match=f"{told} for the KV cache .* --kv-offloading-size"):
            check_adapters_supported(config)


def test_pipeline_stages_may_start_and_with_speculation_not(llama: Path) -> None:
    stages: dict[str, Any] = {"pipeline_parallel_size": 2}
    check_adapters_supported(configured(llama, **stages))
    speculation = {"method": "draft_model", "model": str(llama), "num_speculative_tokens": 2}
    with pytest.raises(CannotStart, match=r"--speculative-config with --pipeline-parallel-size 2"):
        check_adapters_supported(configured(llama, **stages, speculative_config=speculation))


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"enable_dbo": True}, "--enable-dbo"),
        ({"ubatch_size": 2}, "--ubatch-size"),
        ({"prefill_context_parallel_size": 2}, "--prefill-context-parallel-size 2 .*--tensor-parallel-size"),
        ({"decode_context_parallel_size": 4}, "--decode-context-parallel-size 4"),
    ],
)
def test_what_cuts_a_request_a_batch_or_the_model_apart_is_refused(
    vllm_config: VllmConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], flag: str
) -> None:
    """vLLM's CPU platform would take these options away, so they are set on its configuration."""
    for name, value in changes.items():
        monkeypatch.setattr(vllm_config.parallel_config, name, value)
    with pytest.raises(CannotStart, match=flag):
        check_adapters_supported(vllm_config)


def test_a_model_whose_packed_linears_vllm_does_not_name_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(StableLmConfig(**SHAPE)).save_pretrained(tmp_path)
    with pytest.raises(CannotStart, match="StableLmForCausalLM cannot be served with adapters"):
        check_adapters_supported(configured(tmp_path))


def test_the_sentence_names_what_is_adapted_and_what_is_not(tmp_path: Path, llama: Path) -> None:
    assert what_is_left_out(read_model(llama)) is None
    sentence = what_is_left_out(read_model(save_family(tmp_path / "mixtral", "mixtral")))
    assert sentence == (
        "mixtral: block_sparse_moe.experts and block_sparse_moe.gate of its layers are not adapted; self_attn.q_proj, "
        "self_attn.k_proj, self_attn.v_proj and self_attn.o_proj are."
    )
