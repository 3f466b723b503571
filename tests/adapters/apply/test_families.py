"""Every family that is served: which of its linears are adapted, and what adapters do to its logits in training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from adapters.apply.trainable import BASE, TrainableAdapters
from adapters.factors.build import build_factors
from adapters.factors.model_files import MODULE_TYPES, read_model
from tests.adapters.families import FAMILIES, VOCABULARY, Merged, load_model, save_family


@pytest.mark.parametrize("name", FAMILIES)
def test_linears_of_attention_and_mlp_are_adapted_and_what_else_there_is_has_a_name(tmp_path: Path, name: str) -> None:
    path, family = save_family(tmp_path / name, name), FAMILIES[name]
    files, model = read_model(path), load_model(path)
    linears = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.rpartition(".")[2] in MODULE_TYPES
        and not any(f".{part}." in name for part in family.left_out)
    }
    assert {weight.module for weight in files.weights} == linears
    assert {weight.module.rpartition(".")[2] for weight in files.weights} == set(family.types)
    assert files.left_out == family.left_out


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_a_batch_are_those_of_merged_weights(tmp_path: Path, name: str) -> None:
    path = save_family(tmp_path / name, name)
    factors = build_factors(path, progress=False)
    merged = Merged(path, factors, 2)
    model = TrainableAdapters(load_model(path), factors)
    handles = [BASE, *(model.add(adapter) for adapter in merged.adapters)]
    ids_PT = torch.randint(3, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), model.rows(handles):
        logits_PTV = model.model(input_ids=ids_PT).logits
    for logits_TV, ids_T, adapter in zip(logits_PTV, ids_PT, (None, 0, 1), strict=True):
        expected_TV = merged.logits(ids_T.tolist(), adapter)
        torch.testing.assert_close(logits_TV, expected_TV, rtol=1e-4, atol=1e-5 * expected_TV.abs().max().item())
        if adapter is not None:
            assert (logits_TV - merged.logits(ids_T.tolist(), None)).abs().max() > 0.01 * logits_TV.abs().max()
