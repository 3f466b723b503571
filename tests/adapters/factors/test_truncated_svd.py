"""The truncated SVD, against torch.linalg.svd in float64 of the same float32 matrix."""

import pytest
import torch
from torch import Tensor

from adapters.factors.model_files import read_model
from adapters.factors.truncated_svd import truncated_svd
from adapters.vector.errors import FactorsError
from server.launch.embedded_model import ensure_embedded_model


def with_spectrum(rows: int, columns: int, values: Tensor, seed: int = 0) -> Tensor:
    """A float32 matrix with these singular values, to rounding."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator, dtype=torch.float64)).Q
        for size in (rows, columns)
    )
    return ((left * values) @ right.T).float()


def flat(count: int = 300) -> Tensor:
    return torch.linspace(1.0, 0.1, count, dtype=torch.float64)


def leading(*values: float) -> Tensor:
    """A flat tail below 1, under these leading singular values."""
    spectrum = flat()
    spectrum[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return spectrum


def gaussian(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


SPECTRA = {
    "power law": (with_spectrum(300, 500, torch.arange(1, 301, dtype=torch.float64) ** -0.5), 2),
    "one outlier, as in attention projections": (with_spectrum(300, 300, leading(80.0, 2.0)), 2),
    "flat": (with_spectrum(400, 300, flat()), 2),
    "Gaussian, tall": (gaussian(700, 300), 2),
    "Gaussian, wide": (gaussian(200, 900), 4),
    "Gaussian, rank 8": (gaussian(400, 400), 8),
    "nearly equal within": (with_spectrum(300, 400, leading(2.0, 2.0 * (1 - 1e-7))), 2),
    "three nearly equal within": (with_spectrum(400, 300, leading(2.0, 2.0 - 1e-6, 2.0 - 2e-6, 1.5)), 4),
    "nearly equal across the cut": (with_spectrum(300, 400, leading(2.0, 1.5, 1.5 * (1 - 1e-4))), 2),
    "a cluster behind the cut": (with_spectrum(300, 400, leading(2.0, *(1.5 - 1e-4 * i for i in range(12)))), 2),
    "small": (gaussian(20, 12), 2),
    "as small as the rank": (gaussian(2, 9), 2),
    "tiny numbers": (gaussian(300, 200) * 1e-6, 2),
}


@pytest.mark.parametrize(("weight", "rank"), SPECTRA.values(), ids=SPECTRA.keys())
def test_values_vectors_and_product_agree_with_the_exact_svd(weight: Tensor, rank: int) -> None:
    u, s, v = (part.double() for part in truncated_svd(weight, rank))
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    torch.testing.assert_close(s, values[:rank], rtol=1e-6, atol=0)
    for residual in (weight.double().T @ u - v * s, weight.double() @ v - u * s):
        assert (residual.norm(dim=0) <= 1e-5 * s).all()
    exact = (left[:, :rank] * values[:rank]) @ right[:rank]
    assert torch.linalg.norm((u * s) @ v.T - exact) <= 1e-5 * torch.linalg.norm(exact)
    for vectors in (u, v):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cluster", [2, 12, 60])
def test_equal_values_across_the_cut_still_give_singular_triplets(cluster: int) -> None:
    weight = with_spectrum(300, 400, leading(2.0, *[1.5] * cluster))
    u, s, v = (part.double() for part in truncated_svd(weight, 2))
    torch.testing.assert_close(s, torch.tensor([2.0, 1.5], dtype=torch.float64), rtol=1e-6, atol=0)
    assert ((weight.double().T @ u - v * s).norm(dim=0) <= 1e-5 * s).all()


@pytest.mark.parametrize("rank_of_weight", [0, 1])
@pytest.mark.parametrize("shape", [(300, 200), (30, 20)])
def test_a_weight_of_lower_rank_still_gives_orthonormal_vectors(rank_of_weight: int, shape: tuple[int, int]) -> None:
    weight = gaussian(shape[0], 1) @ gaussian(1, shape[1]) * float(rank_of_weight)
    u, s, v = truncated_svd(weight, 2)
    torch.testing.assert_close((u * s) @ v.T, weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(u.T @ u, torch.eye(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(v.T @ v, torch.eye(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (12, 20)])
def test_the_entry_of_largest_magnitude_of_every_left_vector_is_positive(shape: tuple[int, int]) -> None:
    weight = gaussian(*shape)
    u, _, v = truncated_svd(weight, 4)
    assert (u.gather(0, u.abs().argmax(dim=0, keepdim=True)) > 0).all()
    negated_u, _, negated_v = truncated_svd(-weight, 4)
    torch.testing.assert_close(negated_u, u, rtol=0, atol=1e-4)
    torch.testing.assert_close(negated_v, -v, rtol=0, atol=1e-4)


def test_the_same_weight_gives_the_same_bits() -> None:
    weight = gaussian(300, 200)
    for first, second in zip(truncated_svd(weight, 2), truncated_svd(weight.clone(), 2), strict=True):
        assert torch.equal(first, second)


def test_a_weight_that_cannot_be_decomposed_is_refused() -> None:
    with pytest.raises(FactorsError, match="lower rank"):
        truncated_svd(gaussian(3, 50), 4)
    weight = gaussian(300, 200)
    for value in (float("nan"), float("inf")):
        weight[7, 7] = value
        with pytest.raises(FactorsError, match="NaN or infinity"):
            truncated_svd(weight, 2)


def test_everything_is_where_the_weight_is() -> None:
    """What does not say where it is made would be made on the default device, which has no numbers."""
    weight = gaussian(300, 200)
    expected = truncated_svd(weight, 3)
    with torch.device("meta"):
        found = truncated_svd(weight, 3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_to_the_tolerance() -> None:
    weight = with_spectrum(700, 500, 50 * 0.9 ** torch.arange(500, dtype=torch.float64))
    (u, s, v), (left, values, right) = truncated_svd(weight.cuda(), 4), truncated_svd(weight, 4)
    assert u.device.type == "cpu"
    torch.testing.assert_close(s, values, rtol=1e-5, atol=0)
    torch.testing.assert_close((u * s) @ v.T, (left * values) @ right.T, rtol=0, atol=2e-5 * float(values[0]))


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "mlp.gate_proj"])
@pytest.mark.parametrize("layer", [0, 29])
def test_trained_weights_agree_with_the_exact_svd(layer: int, name: str) -> None:
    module = f"model.layers.{layer}.{name}"
    weight = next(one for one in read_model(ensure_embedded_model()).weights if one.module == module)
    u, s, v = truncated_svd(weight.read("cpu"), 2)
    left, values, right = torch.linalg.svd(weight.read().double(), full_matrices=False)
    torch.testing.assert_close(s.double(), values[:2], rtol=1e-5, atol=0)
    exact = (left[:, :2] * values[:2]) @ right[:2]
    assert ((u * s) @ v.T - exact).norm() < 2e-5 * exact.norm()
