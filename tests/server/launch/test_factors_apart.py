"""Factors computed in a process of their own, here on the CPU: the same that this process computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapters.factors.build import build_factors, find_factors
from adapters.vector.errors import FactorsError
from server.launch.factors_apart import build_apart
from tests.adapters.tiny_models import save_model


def test_factors_are_there_afterwards_and_computed_once(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    assert find_factors(model) is None
    assert build_apart(str(model), rank=2, kind="svd", device="cpu")
    found = find_factors(model)
    assert found is not None and found == build_factors(model, out_dir=tmp_path / "here", progress=False)
    written = found.path.stat().st_mtime_ns
    assert build_apart(str(model), rank=2, kind="svd", device="cpu")
    assert found.path.stat().st_mtime_ns == written


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_cannot_is_no_error(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    assert not build_apart(str(model), rank=2, kind="svd", device="cuda")
    assert find_factors(model) is None


def test_what_is_wrong_with_the_model_is(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    with pytest.raises(FactorsError, match="too small for rank 17"):
        build_apart(str(model), rank=17, kind="svd", device="cpu")
