"""The factors file: its bytes are its name, and anything else is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from adapters.factors.factors import Factors, Triplet, open_factors, read_metadata, save_factors
from adapters.vector.errors import FactorsError

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")


def triplets(rank: int = 2) -> Iterator[tuple[str, Triplet]]:
    generator = torch.Generator().manual_seed(0)
    for module, (out_features, in_features) in zip(MODULES, [(6, 5), (4, 9)], strict=True):
        u = torch.linalg.qr(torch.randn(out_features, rank, generator=generator)).Q
        v = torch.linalg.qr(torch.randn(in_features, rank, generator=generator)).Q
        yield module, (u, torch.tensor([3.0, 1.5])[:rank], v)


def save(directory: Path, **changes: Any) -> Factors:
    options = {
        "rank": 2, "kind": "svd", "seed": 0, "base_model": "tiny", "config_sha256": "c", "weights_fingerprint": "f",
    }  # fmt: skip
    return save_factors(directory, triplets(), **options | changes)


def test_what_was_saved_is_what_is_opened(tmp_path: Path) -> None:
    factors = open_factors(save(tmp_path / "new" / "directory").path)
    assert (factors.rank, factors.kind, factors.base_model, factors.modules) == (2, "svd", "tiny", MODULES)
    assert factors.singular_values.tolist() == [[3.0, 1.5], [3.0, 1.5]]
    for module, expected in triplets():
        for found, part in zip(factors.triplet(module), expected, strict=True):
            assert torch.equal(found, part)


def test_equal_contents_have_equal_names_and_others_do_not(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    assert (first.digest, first.path.name) == (second.digest, second.path.name)
    assert first == second
    assert first.path.read_bytes() == second.path.read_bytes()
    assert save(tmp_path, base_model="other").digest != first.digest


def test_saving_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    factors = save(tmp_path)
    save(tmp_path)
    assert list(tmp_path.iterdir()) == [factors.path]


def test_a_failed_save_leaves_nothing_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, Triplet]]:
        yield from triplets()
        raise FactorsError("the third weight is broken")

    with pytest.raises(FactorsError, match="third"):
        save_factors(
            tmp_path, broken(), rank=2, kind="svd", seed=0, base_model="", config_sha256="", weights_fingerprint=""
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("position", [0, 20, 200, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, position: int) -> None:
    path = save(tmp_path).path
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(FactorsError, match="damaged or was changed"):
        open_factors(path)


def test_a_file_with_another_name_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path).path
    with pytest.raises(FactorsError, match="keep the name"):
        open_factors(path.rename(tmp_path / "factors.safetensors"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path).path
    path.unlink()
    with pytest.raises(FactorsError, match="cannot read"):
        open_factors(path)


@pytest.mark.parametrize(
    "metadata", [None, {"tinylora": "[]"}, {"tinylora": '{"format_version": 2}'}, {"tinylora": "{"}]
)
def test_other_safetensors_files_are_no_factors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(FactorsError):
        read_metadata(path)


def test_an_unknown_module_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FactorsError, match=r"cover 2 modules.*q_proj"):
        save(tmp_path).triplet("lm_head")
