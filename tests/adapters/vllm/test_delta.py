"""Every way to compute the delta, against the formula in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from adapters.vllm.delta import DELTAS, MIN_BLOCK, blocks_of, can_fuse
from server.core.settings import Settings

SLOTS, TOKENS, FEATURES = 7, 11, 96
# Outputs of the modules packed into one linear: one alone, gate and up, query, key and value, and an awkward pair.
PACKED = {"alone": (64,), "equal": (80, 80), "attention": (96, 32, 32), "awkward": (33, 40)}
CPU = sorted(DELTAS.keys() - {"kernel"})


class Layer(nn.Module):
    """What the delta reads of a linear, made up."""

    def __init__(self, rank: int, outs: tuple[int, ...]) -> None:
        super().__init__()
        self.expand_RO = [torch.randn(rank, out) for out in outs]
        blocks, modules = blocks_of(self.expand_RO)
        size = len(outs) * rank * rank
        table = torch.randn(SLOTS, 3 + size)  # of more modules than these
        table[0] = 0
        self.tinylora_rank = rank
        for name, tensor in {
            "shrink": torch.randn(len(outs) * rank, FEATURES) / FEATURES**0.5,
            "expand": torch.block_diag(*self.expand_RO),
            "blocks": blocks,
            "modules": modules,
            "table": table[:, 2 : 2 + size],
            "slots": torch.tensor([0, 3, 6, 1, 1, 0, 2, 5, 4, 3, 0, 6, 6]),
        }.items():
            self.register_buffer(f"tinylora_{name}", tensor)

    def exact(self, y_TO: Tensor, x_TI: Tensor) -> Tensor:
        """y + U S (R (V^T x)), token by token and module by module, in float64."""
        rank, layer = self.tinylora_rank, SimpleNamespace(**dict(self.named_buffers()))
        rows = []
        for t in range(len(x_TI)):
            r_QRR = layer.tinylora_table[layer.tinylora_slots[t]].double().view(-1, rank, rank)
            v_QRI = layer.tinylora_shrink.double().view(-1, rank, FEATURES)
            parts = [
                expand_RO.double().T @ (r_RR @ (v_RI @ x_TI[t].double()))
                for expand_RO, r_RR, v_RI in zip(self.expand_RO, r_QRR, v_QRI, strict=True)
            ]
            rows.append(y_TO[t].double() + torch.cat(parts))
        return torch.stack(rows)


def given(rank: int, packed: str, dtype: torch.dtype) -> tuple[Layer, Tensor, Tensor]:
    torch.manual_seed(rank)
    layer = Layer(rank, PACKED[packed])
    return layer, torch.randn(TOKENS, sum(PACKED[packed])).to(dtype), torch.randn(TOKENS, FEATURES).to(dtype)


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("rank", [1, 2, 3, 8])
@pytest.mark.parametrize("name", CPU)
def test_delta_is_the_formula_and_is_rounded_once(name: str, rank: int, packed: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layer, y_TO, x_TI = given(rank, packed, dtype)
        found, exact = DELTAS[name](y_TO, x_TI, layer), layer.exact(y_TO, x_TI)
        assert found.dtype == dtype
        half_unit = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        assert ((found.double() - exact).abs() <= half_unit * exact.abs() + 1e-5 * exact.abs().mean()).all()


@pytest.mark.parametrize("packed", ["alone", "equal", "attention"])
@pytest.mark.parametrize("name", CPU)
def test_compiled_delta_is_the_formula(name: str, packed: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(DELTAS[name], dynamic=True)
    for dtype in (torch.float32, torch.bfloat16):
        layer, y_TO, x_TI = given(2, packed, dtype)
        exact = layer.exact(y_TO, x_TI)
        half_unit = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        error = (compiled(y_TO, x_TI, layer).double() - exact).abs()
        assert (error <= half_unit * exact.abs() + 1e-5 * exact.abs().mean()).all()


@pytest.mark.parametrize("name", CPU)
def test_a_token_without_an_adapter_keeps_its_bits(name: str) -> None:
    layer, y_TO, x_TI = given(2, "attention", torch.bfloat16)
    found, none = DELTAS[name](y_TO, x_TI, layer), layer.get_buffer("tinylora_slots")[:TOKENS] == 0
    assert none.any() and torch.equal(found[none], y_TO[none]) and not torch.equal(found[~none], y_TO[~none])


def test_every_way_can_be_set() -> None:
    assert set(get_args(Settings.model_fields["delta"].annotation)) == DELTAS.keys()


def test_blocks_have_the_terms_of_their_own_module_only() -> None:
    expand: Any = [torch.randn(2, out) for out in PACKED["attention"]]
    blocks_RHW, modules_H = blocks_of(expand)
    assert blocks_RHW.shape == (2, 5, 32) and modules_H.tolist() == [0, 0, 0, 1, 2]
    assert torch.equal(blocks_RHW.flatten(1), torch.cat(expand, dim=1))
    assert can_fuse(Layer(2, PACKED["attention"])) and not can_fuse(Layer(2, (MIN_BLOCK - 1,)))
