"""A tiny base model, its factors, and random sequences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.packing import TokenSequence
from tests.adapters.tiny_models import SHAPE, load_model, save_model


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def factors(path: Path) -> Factors:
    return build_factors(path, rank=2, progress=False)


@pytest.fixture
def model(path: Path, factors: Factors) -> TrainableAdapters:
    return TrainableAdapters(load_model(path), factors)


@pytest.fixture
def new_adapter(model: TrainableAdapters, factors: Factors) -> Callable[..., int]:
    """Adds a random adapter and returns its handle."""

    def add(seed: int, **recipe_fields: Any) -> int:
        recipe = Recipe(**recipe_fields)
        v_GU = 0.2 * torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(seed))
        return model.add(Adapter.from_vector(v_GU, recipe, factors.digest, "float32"))

    return add


@pytest.fixture
def sequences() -> Callable[..., list[TokenSequence]]:
    """Random sequences of an adapter; lengths are (prompt, completion)."""

    def make(adapter: int, lengths: list[tuple[int, int]], seed: int = 0, **options: float) -> list[TokenSequence]:
        generator = torch.Generator().manual_seed(seed)

        def tokens(count: int) -> list[int]:
            return torch.randint(4, SHAPE["vocab_size"], (count,), generator=generator).tolist()

        return [TokenSequence(adapter, tokens(p), tokens(c), **options) for p, c in lengths]

    return make
