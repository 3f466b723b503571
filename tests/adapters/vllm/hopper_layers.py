"""The adapted linears of a 7B between their neighbours, compiled for a Hopper GPU: prints what each costs, as JSON.

    python -m tests.adapters.vllm.hopper_layers

Shapes are Qwen2.5-7B's, rank 2, 256 tokens, in bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

from adapters.vllm import delta
from adapters.vllm.adapted_layer import AdaptedLayer, blocks_of
from adapters.vllm.plugin import FUSION_LIMITS
from tests.adapters.vllm.hopper import Generated, config, generated, pretend

TOKENS, RANK = 256, 2
HIDDEN, INTERMEDIATE, HEAD = 3584, 18944, 128
QUERIES, KEYS = 28, 4
QKV = (QUERIES * HEAD, KEYS * HEAD, KEYS * HEAD)
FORWARDS: Mapping[str, delta.Forward] = {
    "fused": delta._fused, "kernel": delta._kernel, "rows": delta._rows, "columns": delta._columns,
}  # fmt: skip

Shape = tuple[tuple[int, ...], torch.dtype]
bf16 = torch.bfloat16


class Plain:
    """A linear method of an unquantized weight."""

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, layer.weight, bias)

    def process_weights_after_loading(self, layer: Any) -> None: ...


@dataclass(frozen=True)
class Adapted:
    """A linear of `outs` packed modules, in one of FORWARDS, or `base`: without adapters."""

    way: str
    features: int
    outs: tuple[int, ...]
    bias: bool = False

    def tensors(self) -> dict[str, Shape]:
        terms, outs = RANK * len(self.outs), sum(self.outs)
        blocks = blocks_of([torch.empty(RANK, out, device="meta") for out in self.outs])[0].shape
        rows = outs + (_of_8(2 * terms) if self.way == "rows" else 0)
        columns = self.features + (_of_8(3 * terms) if self.way == "columns" else 0)
        float32, int64 = torch.float32, torch.int64
        return {
            "weight": ((rows, columns), bf16), "tinylora_shrink": ((terms, self.features), float32),
            "tinylora_parts": ((_of_8(2 * terms), self.features), bf16), "tinylora_expand": ((terms, outs), float32),
            "tinylora_blocks": (tuple(blocks), float32), "tinylora_modules": ((blocks[1],), int64),
            "tinylora_table": ((1060, terms * RANK), float32), "tinylora_slots": ((8192,), int64),
        } | ({"tinylora_bias": ((rows,), bf16)} if self.bias else {})  # fmt: skip

    def apply(self, x_TI: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        named = dict(zip(self.tensors(), tensors, strict=True))
        bias = named.get("tinylora_bias")
        if self.way == "base":
            return linear(x_TI, named["weight"], bias)
        layer = cast(AdaptedLayer, SimpleNamespace(**{"tinylora_bias": None} | named, tinylora_rank=RANK))
        return FORWARDS[self.way](Plain(), layer, x_TI, bias)


def gate_up(way: str) -> Generated:
    """Residual and norm before, gate and up, silu after."""
    layer = Adapted(way, HIDDEN, (INTERMEDIATE, INTERMEDIATE))

    def function(x: Tensor, residual: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        residual = x + residual
        return _activated(layer.apply(_norm(residual, weight), tensors)), residual

    return _compiled(function, layer, ((TOKENS, HIDDEN), bf16), ((TOKENS, HIDDEN), bf16), ((HIDDEN,), bf16))


def down(way: str) -> Generated:
    """Silu before, down, residual and norm after."""
    layer = Adapted(way, INTERMEDIATE, (HIDDEN,))

    def function(x: Tensor, residual: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        residual = layer.apply(_activated(x), tensors) + residual
        return _norm(residual, weight), residual

    return _compiled(function, layer, ((TOKENS, 2 * INTERMEDIATE), bf16), ((TOKENS, HIDDEN), bf16), ((HIDDEN,), bf16))


def output(way: str) -> Generated:
    """Attention before, its output, residual and norm after."""
    layer = Adapted(way, HIDDEN, (HIDDEN,))

    def function(x: Tensor, residual: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        residual = layer.apply(x, tensors) + residual
        return _norm(residual, weight), residual

    return _compiled(function, layer, ((TOKENS, HIDDEN), bf16), ((TOKENS, HIDDEN), bf16), ((HIDDEN,), bf16))


def qkv(way: str) -> Generated:
    """Residual and norm before, query, key and value, rotary embedding after."""
    layer = Adapted(way, HIDDEN, QKV, bias=True)

    def function(
        x: Tensor, residual: Tensor, weight: Tensor, angles: Tensor, positions: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        residual = x + residual
        y = layer.apply(_norm(residual, weight), tensors)
        at_positions = embedding(positions, angles).unsqueeze(1)
        cos, sin = at_positions.narrow(2, 0, HEAD // 2), at_positions.narrow(2, HEAD // 2, HEAD // 2)

        def rotary(x: Tensor, heads: int) -> Tensor:
            x = x.view(TOKENS, heads, HEAD)
            left, right = x.narrow(2, 0, HEAD // 2), x.narrow(2, HEAD // 2, HEAD // 2)
            return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)

        query, key, value = y.narrow(1, 0, QKV[0]), y.narrow(1, QKV[0], QKV[1]), y.narrow(1, QKV[0] + QKV[1], QKV[2])
        return rotary(query, QUERIES), rotary(key, KEYS), value, residual

    hidden = ((TOKENS, HIDDEN), bf16)
    return _compiled(
        function, layer, hidden, hidden, ((HIDDEN,), bf16), ((32768, HEAD), bf16), ((TOKENS,), torch.int64)
    )


def _compiled(function: Callable[..., tuple[Tensor, ...]], layer: Adapted, *before: Shape) -> Generated:
    return generated(function, [*before, *layer.tensors().values()])


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(bf16) * weight


def _activated(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return silu(x.narrow(1, 0, half)) * x.narrow(1, half, half)


def _of_8(size: int) -> int:
    return -(-size // 8) * 8


def main() -> None:
    pretend()
    config.realize_reads_threshold = FUSION_LIMITS["realize_reads_threshold"]
    config.realize_opcount_threshold = FUSION_LIMITS["realize_opcount_threshold"]
    found: dict[str, dict[str, Any]] = {}
    for part in (qkv, output, gate_up, down):
        for way in ("base", *FORWARDS):
            made = part(way)
            found.setdefault(part.__name__, {})[way] = {
                "launches": len(made.kernels) + made.products + len(made.operations),
                "elements": sum(kernel.elements for kernel in made.kernels) // TOKENS,
                "most loads": max(kernel.loads for kernel in made.kernels),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
