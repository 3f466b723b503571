"""The recipes of whoever names none, by the size of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapters.factors.default_recipe import default_recipe, trained_recipe
from adapters.factors.factors import Factors

Linears = dict[str, tuple[int, int]]


def qwen(width: int, keys: int, inner: int) -> Linears:
    """(out, in) of the linears of a layer of Qwen 2.5."""
    attention = {"q": (width, width), "k": (keys, width), "v": (keys, width), "o": (width, width)}
    return attention | {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}


def factors_of(layers: int, linears: Linears, rank: int = 2) -> Factors:
    """Shapes alone."""
    sizes = {f"layers.{layer}.{name}": size for layer in range(layers) for name, size in linears.items()}
    tensors = {
        f"{module}.{side}": torch.empty(count, rank, device="meta")
        for module, size in sizes.items()
        for side, count in zip("UV", size, strict=True)
    } | {"singular_values": torch.empty(len(sizes), rank, device="meta")}
    return Factors("0" * 64, Path("factors"), rank, "svd", 0, "model", "", tuple(sizes), tensors)


@pytest.mark.parametrize(
    ("factors", "uploaded", "trained"),
    [
        (factors_of(28, qwen(3584, 512, 18944)), 13, 13),  # 7B
        (factors_of(36, qwen(2048, 256, 11008)), 13, 196),  # 3B
        (factors_of(24, qwen(896, 128, 4864)), 13, 168),  # 0.5B
        (factors_of(1, qwen(896, 128, 4864)), 7, 7),
    ],
)
def test_small_models_are_trained_with_more_numbers(factors: Factors, uploaded: int, trained: int) -> None:
    assert (default_recipe(factors).num_parameters, trained_recipe(factors).num_parameters) == (uploaded, trained)
    assert default_recipe(factors).rank == trained_recipe(factors).rank == 2


def test_the_rank_is_at_most_that_of_the_factors() -> None:
    factors = factors_of(2, qwen(896, 128, 4864), rank=1)
    assert default_recipe(factors).rank == trained_recipe(factors).rank == 1
