"""Random factors: orthonormal, of the weight's size, and the same bits everywhere."""

import hashlib

import pytest
import torch

from adapters.factors.random_triplet import random_triplet

WEIGHT = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_columns_are_orthonormal(rank: int) -> None:
    u, s, v = random_triplet(WEIGHT, rank, 0, "m")
    assert (u.shape, s.shape, v.shape) == ((60, rank), (rank,), (40, rank))
    for vectors in (u, v):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(rank), rtol=0, atol=1e-6)


def test_all_values_are_the_root_mean_square_singular_value() -> None:
    expected = torch.linalg.svdvals(WEIGHT).square().mean().sqrt()
    torch.testing.assert_close(random_triplet(WEIGHT, 3, 0, "m")[1], expected.expand(3), rtol=5e-3, atol=0)


def test_golden_digest_of_the_directions() -> None:
    u, _, v = random_triplet(WEIGHT, 2, 5, "model.layers.0.self_attn.q_proj")
    content = b"".join(part.numpy().astype("<f4").tobytes() for part in (u, v))
    assert hashlib.sha256(content).hexdigest() == "15f133010fdd432def3b7bdd7fcf5d99296c6f3fb2e77836831806b3adadef9c"


def test_seed_and_module_change_the_directions_and_the_weight_does_not() -> None:
    base = random_triplet(WEIGHT, 2, 0, "m")
    assert not torch.equal(base[0], random_triplet(WEIGHT, 2, 1, "m")[0])
    assert not torch.equal(base[0], random_triplet(WEIGHT, 2, 0, "n")[0])
    assert torch.equal(base[0], random_triplet(2 * WEIGHT, 2, 0, "m")[0])


def test_a_zero_weight_gives_zero_values_and_orthonormal_columns() -> None:
    u, s, _ = random_triplet(torch.zeros(60, 40), 2, 0, "m")
    assert not s.any()
    torch.testing.assert_close(u.T @ u, torch.eye(2), rtol=0, atol=1e-6)
