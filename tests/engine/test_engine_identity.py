"""Towards the engine an adapter is its content: one LoRARequest per content in flight, and no client's name in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack

import pytest
import torch
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys
from vllm.v1.request import Request

from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.engine.identity import EngineIdentities

pytestmark = pytest.mark.engine


def made(value: float, u: int = 1) -> Adapter:
    recipe = Recipe(u=u)
    return Adapter.from_vector(torch.full((13, u), value), recipe, "0" * 64, "bfloat16")


def hold(identities: EngineIdentities, adapter: Adapter) -> AbstractContextManager[LoRARequest]:
    return identities.hold(adapter, f"tinylora:2:{adapter.digest}:{'A' * len(adapter.data)}")


def test_contents_in_one_batch_are_different_to_vllm_and_equal_contents_are_one() -> None:
    identities = EngineIdentities()
    with hold(identities, made(1.0)) as one, hold(identities, made(2.0)) as two, hold(identities, made(1.0)) as again:
        # What vLLM's runners hand to set_active_adapters: a set, in which names decide.
        assert {one, two, again} == {one, two} and len({one, two, again}) == 2
        assert one.lora_int_id == again.lora_int_id != two.lora_int_id


def test_an_adapter_keeps_its_id_as_long_as_anything_runs_with_it_whatever_else_comes() -> None:
    identities = EngineIdentities(max_idle_bytes=0)
    with hold(identities, made(0.5)) as first:
        for number in range(500):
            with hold(identities, made(float(number))) as other:
                assert other.lora_int_id != first.lora_int_id
        with hold(identities, made(0.5)) as later:
            assert later == first and later.lora_int_id == first.lora_int_id
    assert len(identities) == 0


def test_ids_that_are_in_use_are_not_given_again_when_they_begin_anew() -> None:
    identities = EngineIdentities(max_idle_bytes=0, max_id=5)
    with ExitStack() as running:
        held = [running.enter_context(hold(identities, made(value))).lora_int_id for value in (1.0, 2.0, 3.0)]
        for number in range(20):
            with hold(identities, made(10.0 + number)) as other:
                assert other.lora_int_id in {1, 2, 3, 4, 5} - set(held)


def test_a_content_that_comes_back_after_it_was_forgotten_is_another_adapter_to_vllm() -> None:
    """A request that was given up may run for a step more, beside one that came later."""
    identities = EngineIdentities(max_idle_bytes=0)
    with hold(identities, made(1.0)) as before:
        pass
    with hold(identities, made(1.0)) as after:
        assert after.lora_int_id != before.lora_int_id and len({before, after}) == 2


def test_idle_adapters_are_bounded_by_their_bytes() -> None:
    limit = 300_000
    identities = EngineIdentities(max_idle_bytes=limit)
    for number in range(100):
        with hold(identities, made(float(number), u=1000)) as request:
            size = len(request.lora_path)
        assert identities.idle_bytes <= limit
    assert size > 26_000 and len(identities) == limit // (size + 512)
    for number in range(2000):
        with hold(identities, made(float(number))):
            pass
    assert 300 < len(identities) < 2000 and identities.idle_bytes <= limit


def test_no_computed_prefix_is_shared_between_contents_nor_between_tenants() -> None:
    identities = EngineIdentities()

    def first_block(adapter: Adapter, tenant_id: int) -> object:
        with hold(identities, adapter) as lora_request:
            request = Request(
                "id", [1] * 32, SamplingParams(), None, cache_salt=f"tenant-{tenant_id}", lora_request=lora_request
            )
            return generate_block_hash_extra_keys(request, 0, 16, 0)[0]

    blocks = [first_block(made(value), tenant_id) for value in (1.0, 2.0) for tenant_id in (1, 2)]
    assert len(set(map(str, blocks))) == 4
    assert first_block(made(1.0), 1) == blocks[0]
