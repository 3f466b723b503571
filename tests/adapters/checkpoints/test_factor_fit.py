"""Fitting foreign updates onto factors, against dense linear algebra in float64."""

from dataclasses import replace

import pytest
import torch

from adapters.apply.reconstruct import delta_weight
from adapters.checkpoints.factor_fit import LowRankUpdate, elementary_adapter, fit_matrices
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.errors import CheckpointError
from tests.adapters.tiny_models import save_model

MODULE = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Factors:
    return build_factors(save_model(tmp_path_factory.mktemp("base")), rank=3, progress=False)


def update_inside(factors: Factors, rank: int, outside: float = 0.0) -> LowRankUpdate:
    """A random update within the span of the first `rank` factors, plus `outside` times its size beyond all of them."""
    generator = torch.Generator().manual_seed(4)
    left, _, right = (part.double() for part in factors.triplet(MODULE))
    mix = torch.randn(3, rank, rank, generator=generator, dtype=torch.float64)
    inside = LowRankUpdate(left[:, :rank] @ mix[0], mix[1], mix[2] @ right[:, :rank].T)
    delta = inside.left @ inside.core @ inside.right
    stray = torch.randn(len(left), len(right), generator=generator, dtype=torch.float64)
    stray -= left @ (left.T @ stray)
    delta += stray * (outside * delta.norm() / stray.norm())
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    size = len(s) if outside else rank
    return LowRankUpdate(u[:, :size], torch.diag(s[:size]), v[:size])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_update_inside_the_span_is_found_exactly_and_keeps_its_rank(factors: Factors, rank: int) -> None:
    update = update_inside(factors, rank)
    fitted = fit_matrices([(MODULE, update)], factors, rank).matrices
    assert fitted.shape == (14, rank, rank)
    assert not fitted[[name != MODULE for name in factors.modules]].any()
    expected = update.left @ update.core @ update.right
    ours = delta_weight(elementary_adapter(fitted, factors), factors, MODULE).double()
    assert (ours - expected).norm() < 1e-5 * expected.norm()


def test_full_rank_is_used_when_the_leading_vectors_do_not_suffice(factors: Factors) -> None:
    assert fit_matrices([(MODULE, update_inside(factors, 3))], factors, 1).matrices.shape == (14, 3, 3)


def test_small_residual_is_accepted_and_a_larger_one_is_refused_with_its_size(factors: Factors) -> None:
    assert fit_matrices([(MODULE, update_inside(factors, 3, outside=0.01))], factors, 3).matrices.any()
    with pytest.raises(CheckpointError, match=r"3\.0% of the update in .*up_proj lies outside the factors"):
        fit_matrices([(MODULE, update_inside(factors, 3, outside=0.03))], factors, 3)


def test_zero_update_of_other_weights_is_refused_by_its_frozen_matrices(factors: Factors) -> None:
    inside, other = update_inside(factors, 2), update_inside(factors, 2, outside=1.0)
    assert not fit_matrices([(MODULE, replace(inside, core=0 * inside.core))], factors, 2).matrices.any()
    with pytest.raises(CheckpointError, match="other base weights"):
        fit_matrices([(MODULE, replace(other, core=0 * other.core))], factors, 2)
