"""A linear with its delta, against autograd through the formula, in float32 and in 16 bits."""

import pytest
import torch
from torch import Tensor

from adapters.apply.adapted_linear import LinearFactors, adapted_linear

ROWS, TOKENS, IN, OUT = 3, 50, 96, 160
RANKS = (1, 2, 8)
ON_GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
)
on_every_device = pytest.mark.parametrize("device", ["cpu", ON_GPU])


class Case:
    """A linear with its leading singular vectors, inputs, and a delta several times as large as its output."""

    def __init__(self, rank: int, dtype: torch.dtype, device: str = "cpu", *, bias: bool = True) -> None:
        torch.manual_seed(rank)
        self.linear = torch.nn.Linear(IN, OUT, bias).to(device, dtype).requires_grad_(False)
        u_OK, s_K, vt_KI = torch.linalg.svd(self.linear.weight.float(), full_matrices=False)
        self.triplet = u_OK[:, :rank], s_K[:rank], vt_KI[:rank].mT
        self.x_PTI = torch.randn(ROWS, TOKENS, IN).to(device, dtype).requires_grad_()
        self.r_PRR = (20 * torch.randn(ROWS, rank, rank, device=device)).requires_grad_()
        self.gy_PTO = torch.randn(ROWS, TOKENS, OUT).to(device, dtype)

    def ours(self) -> tuple[Tensor, Tensor, Tensor]:
        """y, and the gradients of x and R."""
        factors = LinearFactors.on(self.linear.weight, self.triplet)
        y_PTO = adapted_linear(self.x_PTI, self.r_PRR, self.linear, factors)
        return y_PTO, *torch.autograd.grad(y_PTO, (self.x_PTI, self.r_PRR), self.gy_PTO)

    def exact(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In float64: y without and with the delta, the gradient of x without and with it, the gradient of R."""
        x_PTI, r_PRR = (tensor.detach().double().requires_grad_() for tensor in (self.x_PTI, self.r_PRR))
        u_OR, s_R, v_IR = (factor.double() for factor in self.triplet)
        base_PTO = x_PTI @ self.linear.weight.double().mT
        if self.linear.bias is not None:
            base_PTO = base_PTO + self.linear.bias.double()
        y_PTO = base_PTO + x_PTI @ v_IR @ r_PRR.mT @ (u_OR * s_R).mT
        gy_PTO = self.gy_PTO.double()
        [base_gx_PTI] = torch.autograd.grad(base_PTO, x_PTI, gy_PTO, retain_graph=True)
        return base_PTO, y_PTO, base_gx_PTI, *torch.autograd.grad(y_PTO, (x_PTI, r_PRR), gy_PTO)


@on_every_device
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_output_and_gradients_are_autograds_in_float32(rank: int, bias: bool, device: str) -> None:
    case = Case(rank, torch.float32, device, bias=bias)
    base_PTO, y_PTO, _, gx_PTI, gr_PRR = case.exact()
    assert (y_PTO - base_PTO).norm() > base_PTO.norm()
    for ours, exact in zip(case.ours(), (y_PTO, gx_PTI, gr_PRR), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())


@on_every_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("rank", RANKS)
def test_in_16_bits_only_what_is_stored_is_rounded(rank: int, dtype: torch.dtype, device: str) -> None:
    """W x is rounded as without an adapter, the sum with the delta once more, and nothing else."""
    case = Case(rank, dtype, device)
    base_PTO, y_PTO, base_gx_PTI, gx_PTI, gr_PRR = case.exact()
    ours_y, ours_gx, ours_gr = case.ours()
    half_unit = torch.finfo(dtype).eps / 2
    for ours, base, exact in ((ours_y, base_PTO, y_PTO), (ours_gx, base_gx_PTI, gx_PTI)):
        assert ours.dtype == dtype
        delta = exact - base
        allowed = half_unit * (base.abs() + exact.abs()) * (1 + half_unit) + 1e-4 * delta.abs().mean()
        assert ((ours.double() - exact).abs() <= allowed).all()
    # Factors in 16 bits would not keep that bound, even without any other rounding.
    u_OR, s_R, v_IR = case.triplet
    u_OR, v_IR = (u_OR * s_R).to(dtype).double(), v_IR.to(dtype).double()
    rounded = base_PTO + case.x_PTI.double() @ v_IR @ case.r_PRR.double().mT @ u_OR.mT
    assert ((rounded - y_PTO).abs() > half_unit * (base_PTO.abs() + y_PTO.abs()) * (1 + half_unit)).any()
    torch.testing.assert_close(ours_gr.double(), gr_PRR, rtol=1e-4, atol=1e-4 * gr_PRR.abs().max().item())


def test_an_input_without_gradient_gets_none() -> None:
    case = Case(2, torch.float32)
    expected = case.ours()[2]
    case.x_PTI.requires_grad_(False)
    y_PTO = adapted_linear(case.x_PTI, case.r_PRR, case.linear, LinearFactors.on(case.linear.weight, case.triplet))
    [gr_PRR] = torch.autograd.grad(y_PTO, case.r_PRR, case.gy_PTO)
    assert torch.equal(gr_PRR, expected)


def test_matrices_for_another_number_of_rows_are_refused() -> None:
    case = Case(2, torch.float32)
    with pytest.raises(RuntimeError):
        adapted_linear(case.x_PTI, case.r_PRR[:1], case.linear, LinearFactors.on(case.linear.weight, case.triplet))
