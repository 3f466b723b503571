"""What vLLM makes of adapters of several tenants: no two contents, and no two tenants, share computed prefixes."""

from __future__ import annotations

import pytest
import torch

from adapters.adapter import Adapter
from adapters.recipe import Recipe
from server.engine_api import ServedAdapter

pytestmark = pytest.mark.engine


def test_vllm_tells_adapters_of_one_name_apart() -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys
    from vllm.v1.request import Request

    from server.engine import LoRARequests

    def made(value: float) -> Adapter:
        return Adapter.from_vector(torch.full((13, 1), value), Recipe(), "0" * 64, "bfloat16")

    def first_block(adapter: Adapter, tenant_id: int) -> object:
        request = Request(
            "id", [1] * 32, SamplingParams(), None, cache_salt=f"tenant-{tenant_id}",
            lora_request=requests.get(ServedAdapter("math@1", adapter, "math")),
        )  # fmt: skip
        return generate_block_hash_extra_keys(request, 0, 16, 0)[0]

    requests = LoRARequests()
    ones, twos = [requests.get(ServedAdapter("math@1", made(value), "math")) for value in (1.0, 2.0)]
    assert ones.lora_int_id != twos.lora_int_id and ones.lora_path != twos.lora_path
    # No computed prefix is shared between contents, nor between tenants, whatever the content.
    blocks = [first_block(made(value), tenant_id) for value in (1.0, 2.0) for tenant_id in (1, 2)]
    assert len(set(map(str, blocks))) == 4
    assert first_block(made(1.0), 1) == blocks[0]


def test_a_server_that_would_keep_answers_for_anyone_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from server.engine_launch import parse_vllm_args

    monkeypatch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
    with pytest.raises(SystemExit):
        parse_vllm_args("some/model", [])
    assert "unset VLLM_ENABLE_RESPONSES_API_STORE" in capsys.readouterr().err
