"""Every way to compute the delta, against the formula in float64, in linears as vLLM makes them."""

from __future__ import annotations

from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import UnquantizedLinearMethod

from adapters.vllm.adapted_layer import AdaptedLayer, LayerFactors, add_factors, blocks_of, in_two_parts
from adapters.vllm.delta import DELTAS, Forward
from adapters.vllm.expand import MIN_BLOCK, added, can_fuse
from adapters.vllm.rotate import rotated
from adapters.vllm.shrink import shrunk
from server.core.settings import Settings

SLOTS, TOKENS, FEATURES = 7, 11, 96
# Outputs of the modules packed into one linear: one alone, gate and up, query, key and value, and an awkward pair.
PACKED = {"alone": (64,), "equal": (80, 80), "attention": (96, 32, 32), "awkward": (33, 40)}
CPU = sorted(DELTAS.keys() - {"kernel"})
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Quantized:
    """Stands for a method that keeps the weight in a form of its own."""

    def __init__(self) -> None:
        self._method = UnquantizedLinearMethod()

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._method.apply(layer, x, bias)

    def process_weights_after_loading(self, layer: Any) -> None:
        raise AssertionError("its weight is not to be replaced")


class ForOneShape(UnquantizedLinearMethod):
    """Stands for vLLM's methods with a kernel for one shape of weight, as GLM-5.2 has them on some GPUs."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        assert layer.weight.shape == self.shape
        return nn.functional.linear(x, layer.weight, bias)


class Linear(nn.Module):
    """A linear with random factors, as the manager leaves it; `forward` computes it in a way of DELTAS."""

    def __init__(
        self, rank: int, packed: str, dtype: torch.dtype, *, bias: bool = False, in_parts: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(rank)
        outs = PACKED[packed]
        self.weight = nn.Parameter(torch.randn(sum(outs), FEATURES).to(dtype) / FEATURES**0.5, requires_grad=False)
        self.bias = nn.Parameter(torch.randn(sum(outs)).to(dtype), requires_grad=False) if bias else None
        self.exact_weight, self.exact_bias = self.weight.double(), None if self.bias is None else self.bias.double()
        self.expand_RO = [torch.randn(rank, out) for out in outs]
        size = len(outs) * rank * rank
        table_SE = torch.randn(SLOTS, 3 + size)  # of more modules than these
        table_SE[0] = 0
        factors = LayerFactors(torch.randn(len(outs) * rank, FEATURES) / FEATURES**0.5, self.expand_RO)
        slots_T = torch.tensor([0, 3, 6, 1, 1, 0, 2, 5, 4, 3, 0, 6, 6])
        parts_dtype = dtype if in_parts and dtype != torch.float32 else None
        add_factors(self, factors, table_SE[:, 2 : 2 + size], slots_T, parts_dtype)
        self.x_TI = torch.randn(TOKENS, FEATURES).to(dtype)
        self.base: Any = UnquantizedLinearMethod()
        self.base.process_weights_after_loading(self)

    @property
    def adapted(self) -> AdaptedLayer:
        return cast(AdaptedLayer, self)

    def by(self, name: str) -> Forward:
        return DELTAS[name](self.base, self.adapted)

    def compute(self, forward: Forward) -> Tensor:
        return forward(self.base, self.adapted, self.x_TI, self.bias)

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """W x + b, U S (R (V^T x)) token by token and module by module, and sum |U S R| |V^T x|, in float64."""
        rank = self.adapted.tinylora_rank
        y_TO = self.x_TI.double() @ self.exact_weight.T
        if self.exact_bias is not None:
            y_TO = y_TO + self.exact_bias
        v_QRI = self.adapted.tinylora_shrink.double().view(-1, rank, FEATURES)
        deltas, sizes = [], []
        for t in range(TOKENS):
            r_QRR = self.adapted.tinylora_table[self.adapted.tinylora_slots[t]].double().view(-1, rank, rank)
            parts = [
                (expand_RO.double().T @ r_RR, v_RI @ self.x_TI[t].double())
                for expand_RO, r_RR, v_RI in zip(self.expand_RO, r_QRR, v_QRI, strict=True)
            ]
            deltas.append(torch.cat([matrix @ h for matrix, h in parts]))
            sizes.append(torch.cat([matrix.abs() @ h.abs() for matrix, h in parts]))
        return y_TO, torch.stack(deltas), torch.stack(sizes)

    def assert_is_formula(self, found_TO: Tensor, name: str) -> None:
        """As near as the module delta says. W x itself is rounded, by vLLM, before anything is added to it."""
        y_TO, delta_TO, size_TO = self.exact()
        exact_TO = y_TO + delta_TO
        dtype = self.x_TI.dtype
        assert found_TO.dtype == dtype and found_TO.shape == exact_TO.shape
        half_unit = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        bound_TO = half_unit * exact_TO.abs() + 1e-5 * exact_TO.abs().mean()
        if name != "columns" or dtype == torch.float16:  # there it is as fused
            bound_TO = bound_TO + half_unit * y_TO.abs()
        if dtype != torch.float32:
            bound_TO = bound_TO + (half_unit if name == "rows" else 2**-15) * size_TO
        assert ((found_TO.double() - exact_TO).abs() <= bound_TO).all()


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("rank", [1, 2, 3, 8])
def test_multiply_adds_are_the_formula(rank: int, packed: str) -> None:
    """Without compilation, where no way uses them."""
    for dtype in DTYPES:
        linear = Linear(rank, packed, dtype)
        g_THR = rotated(*shrunk(linear.x_TI, linear.adapted), linear.adapted, linear.adapted.tinylora_modules)
        y_TO = linear.base.apply(linear, linear.x_TI)
        linear.assert_is_formula(added(y_TO, g_THR, linear.adapted), "fused")


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("rank", [1, 2, 3, 8])
@pytest.mark.parametrize("name", CPU)
def test_delta_is_the_formula(name: str, rank: int, packed: str) -> None:
    for dtype in DTYPES:
        for bias in (False, True):
            linear = Linear(rank, packed, dtype, bias=bias)
            linear.assert_is_formula(linear.compute(linear.by(name)), name)


@pytest.mark.parametrize("name", CPU)
def test_delta_is_the_formula_with_the_factors_in_two_parts(name: str) -> None:
    for dtype in DTYPES[1:]:
        linear = Linear(2, "attention", dtype, in_parts=True)
        linear.assert_is_formula(linear.compute(linear.by(name)), name)


@pytest.mark.parametrize("packed", ["alone", "equal", "attention"])
@pytest.mark.parametrize("name", CPU)
def test_compiled_delta_is_the_formula(name: str, packed: str) -> None:
    torch._dynamo.reset()
    for dtype in (torch.float32, torch.bfloat16):
        linear = Linear(2, packed, dtype)
        linear.assert_is_formula(torch.compile(linear.compute, dynamic=True)(linear.by(name)), name)


@pytest.mark.parametrize("name", CPU)
def test_a_token_without_an_adapter_keeps_its_bits(name: str) -> None:
    linear = Linear(2, "attention", torch.bfloat16, bias=True)
    base = linear.base.apply(linear, linear.x_TI, linear.bias)
    found, none = linear.compute(linear.by(name)), linear.adapted.tinylora_slots[:TOKENS] == 0
    assert none.any() and torch.equal(found[none], base[none]) and not torch.equal(found[~none], base[~none])


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_a_token_without_an_adapter_is_safe_from_an_overflow(name: str, dtype: torch.dtype) -> None:
    """V^T x beyond float16's 65504, where W x is well within."""
    linear = Linear(2, "alone", dtype)
    linear.weight = nn.Parameter(torch.full_like(torch.empty(64, FEATURES), 1e-3).to(dtype), requires_grad=False)
    linear.base.process_weights_after_loading(linear)
    linear.adapted.tinylora_shrink.fill_(1.0)
    linear.x_TI.fill_(1000.0)
    found, none = linear.compute(linear.by(name)), linear.adapted.tinylora_slots[:TOKENS] == 0
    assert torch.isfinite(found[none]).all() and 90 < found[none].mean() < 100


@pytest.mark.parametrize("name", ["rows", "columns"])
def test_a_quantized_weight_stays_as_it_is(name: str) -> None:
    linear = Linear(2, "equal", torch.bfloat16)
    linear.base = Quantized()
    before = linear.weight
    linear.assert_is_formula(linear.compute(linear.by(name)), "auto")
    assert linear.weight is before


@pytest.mark.parametrize("name", ["rows", "columns"])
def test_a_weight_with_a_kernel_for_its_shape_stays_as_it_is(name: str) -> None:
    linear = Linear(2, "equal", torch.bfloat16)
    linear.weight = nn.Parameter(linear.exact_weight.bfloat16(), requires_grad=False)
    linear.base = ForOneShape(linear.weight.shape)
    linear.assert_is_formula(linear.compute(linear.by(name)), "auto")


def test_two_parts_are_the_matrix() -> None:
    matrix_LI = torch.randn(6, 96) * 2.0 ** -torch.arange(0, 24, 4)[:, None]
    for dtype in DTYPES[1:]:
        parts_PI = in_two_parts(matrix_LI, dtype)
        assert parts_PI.shape == (16, 96) and not parts_PI[12:].any()
        error = (parts_PI[:6].double() + parts_PI[6:12].double() - matrix_LI.double()).abs()
        relative, least = (2.0**-16, 0.0) if dtype == torch.bfloat16 else (2.0**-21, 2.0**-24)
        assert (error <= (relative * matrix_LI.double().abs()).clamp(min=least)).all()


def test_two_parts_of_singular_vectors_are_them_to_2_to_the_minus_18() -> None:
    rows_LI = torch.linalg.qr(torch.randn(8192, 2)).Q.T.contiguous()
    parts_PI = in_two_parts(rows_LI, torch.float16).double()
    assert ((parts_PI[:2] + parts_PI[2:4] - rows_LI.double()).norm(dim=1) < 2**-18).all()


def test_every_way_can_be_set() -> None:
    assert set(get_args(Settings.model_fields["delta"].annotation)) == DELTAS.keys()


def test_blocks_have_the_terms_of_their_own_module_only() -> None:
    expand: Any = [torch.randn(2, out) for out in PACKED["attention"]]
    blocks_RHW, modules_H = blocks_of(expand)
    assert blocks_RHW.shape == (2, 5, 32) and modules_H.tolist() == [0, 0, 0, 1, 2]
    assert torch.equal(blocks_RHW.flatten(1), torch.cat(expand, dim=1))
    assert can_fuse(Linear(2, "attention", torch.float32).adapted)
    assert not can_fuse(Linear(2, "awkward", torch.float32).adapted) and MIN_BLOCK > 1
