"""Which of a vLLM model's linears are adapted, and the factors that each of them gets.

vLLM packs modules of the checkpoint into one linear (q, k and v; gate and up), may call them otherwise, and gives every
tensor-parallel rank a shard of them, and every pipeline-parallel rank some of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.models.utils import PPMissingLayer

from adapters.factors.factors import Factors
from adapters.vector.errors import FactorsError
from adapters.vllm.adapted_layer import LayerFactors


def adapted_linears(model: nn.Module, factors: Factors) -> list[tuple[LinearBase, list[str]]]:
    """The linears of `model` that have factors, each with the modules packed into it, by the factors' names.

    FactorsError when a module that has factors is in no linear, because adapters would then act in part.
    """
    packed = getattr(model, "packed_modules_mapping", {})
    known = engine_names(model, factors.modules)
    result, adapted = [], set()
    for name, layer in model.named_modules():
        if not isinstance(layer, LinearBase):
            continue
        parent, _, leaf = name.rpartition(".")
        parts = [f"{parent}.{part}" for part in packed.get(leaf, [leaf])]
        if known.keys().isdisjoint(parts):
            if name not in known:
                continue
            parts = [name]  # fused in the checkpoint too
        if missing := [part for part in parts if part not in known]:
            raise FactorsError(
                f"The factors {factors.path} have no entry for {missing}, which vLLM packs into {name}. Build them "
                "again for this model."
            )
        result.append((layer, [known[part] for part in parts]))
        adapted.update(parts)
    elsewhere = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, PPMissingLayer))
    lacking = [part for part in known if part not in adapted and not part.startswith(elsewhere)]
    if lacking:
        raise FactorsError(
            f"{len(lacking)} of the {len(known)} modules of {factors.path} (first: {lacking[0]}) are no linears of "
            f"{type(model).__name__} as vLLM runs it: this kind of model is not supported, or the factors belong to "
            f"another base model than {factors.base_model}."
        )
    return result


def engine_names(model: nn.Module, modules: Sequence[str]) -> dict[str, str]:
    """Names of the checkpoint's `modules`, by what they are called in vLLM's `model` before it packs them."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return {module: module for module in modules}
    renamer = replace(mapper, orig_to_new_stacked={})
    renamed = [(renamer.map_name(f"{module}.weight") or module).removesuffix(".weight") for module in modules]
    return dict(zip(renamed, modules, strict=True))


def layer_factors(layer: LinearBase, names: Sequence[str], factors: Factors, device: torch.device) -> LayerFactors:
    """The factors of the modules `names` packed into `layer`, sharded for this tensor-parallel rank.

    Column-parallel layers shard the rows of U; row-parallel ones those of V, and their all-reduce sums the deltas.
    """
    shrink, expand = [], []
    for index, name in enumerate(names):
        u_OR, s_R, v_IR = factors.triplet(name)
        if isinstance(layer, RowParallelLinear):
            v_IR = v_IR.chunk(layer.tp_size)[layer.tp_rank]
        elif isinstance(layer, ColumnParallelLinear):
            # A module that is fused in the checkpoint too is sharded part by part, as several modules are.
            parts = torch.split(u_OR, _output_sizes(layer)) if len(names) == 1 else (u_OR,)
            u_OR = torch.cat([_own_rows(layer, index + part, rows_OR) for part, rows_OR in enumerate(parts)])
        shrink.append(v_IR)
        expand.append((u_OR * s_R).T)
    return LayerFactors(
        torch.cat(shrink, dim=1).T.to(device, torch.float32).contiguous(),
        [expand_RO.to(device, torch.float32) for expand_RO in expand],
    )


def _output_sizes(layer: ColumnParallelLinear) -> list[int]:
    """How many outputs each part of `layer` has, on all ranks together."""
    if isinstance(layer, QKVParallelLinear):
        heads, kv_heads = layer.total_num_heads, layer.total_num_kv_heads
        return [heads * layer.head_size, kv_heads * layer.head_size, kv_heads * layer.v_head_size]
    return list(layer.output_sizes) if isinstance(layer, MergedColumnParallelLinear) else [layer.output_size]


def _own_rows(layer: ColumnParallelLinear, part: int, rows_OR: Tensor) -> Tensor:
    """The rows of a part that this rank has. With fewer KV heads than ranks, several ranks have the same head."""
    replicas = layer.num_kv_head_replicas if isinstance(layer, QKVParallelLinear) and part else 1
    shards = rows_OR.chunk(layer.tp_size // replicas)
    return cast(Tensor, shards[layer.tp_rank // replicas])
