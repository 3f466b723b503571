"""Building and finding factors, against numpy's SVD of the weights that transformers loads from the same directory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from adapters.factors.build import build_factors, find_or_build_factors, measure_build
from adapters.factors.factors import Kind, open_factors
from adapters.vector.errors import FactorsError
from tests.adapters.tiny_models import save_model


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_factors_are_the_leading_singular_triplets_of_every_weight(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    path = save_model(tmp_path, family, dtype=dtype)
    factors = build_factors(path, rank=3, progress=False)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert (factors.base_model, factors.rank, factors.kind, len(factors.modules)) == (path.name, 3, "svd", 14)
    for index, module in enumerate(factors.modules):
        u, s, v = factors.triplet(module)
        left, values, right = np.linalg.svd(model.get_submodule(module).weight.detach().double().numpy())
        np.testing.assert_allclose(s, values[:3], rtol=1e-5)
        np.testing.assert_allclose((u * s) @ v.T, (left[:, :3] * values[:3]) @ right[:3], atol=1e-5 * values[0])
        assert torch.equal(factors.singular_values[index], s)
        assert (u.gather(0, u.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_the_same_weights_give_the_same_digest_again(llama: Path, tmp_path: Path) -> None:
    first = build_factors(llama, out_dir=tmp_path / "a", progress=False)
    assert first == build_factors(llama, out_dir=tmp_path / "b", progress=False)
    assert first.path.parent == tmp_path / "a"


def test_factors_are_built_once_beside_the_model(llama: Path) -> None:
    first = find_or_build_factors(llama, progress=False)
    assert first.path.parent == llama / "tinylora"
    written = first.path.stat().st_mtime_ns
    second = find_or_build_factors(str(llama), progress=False)
    assert second == first
    assert second.path.stat().st_mtime_ns == written


def test_other_ranks_kinds_and_seeds_are_other_factors(llama: Path) -> None:
    wanted: list[tuple[int, Kind, int]] = [(2, "svd", 0), (3, "svd", 0), (2, "random", 0), (2, "random", 1)]
    found = [find_or_build_factors(llama, rank=r, kind=k, seed=s, progress=False) for r, k, s in wanted]
    assert len({factors.digest for factors in found}) == 4
    again = [find_or_build_factors(llama, rank=r, kind=k, seed=s, progress=False) for r, k, s in wanted]
    assert again == found
    assert [(factors.rank, factors.kind, factors.seed) for factors in found] == wanted


def test_changed_weights_get_new_factors(llama: Path) -> None:
    before = find_or_build_factors(llama, progress=False)
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.model.layers[1].mlp.gate_proj.weight.data[3, 4] += 0.5
    model.save_pretrained(llama)
    after = find_or_build_factors(llama, progress=False)
    assert after != before
    module = "model.layers.1.mlp.gate_proj"
    assert not torch.equal(after.triplet(module)[1], before.triplet(module)[1])


def test_a_damaged_file_is_replaced(llama: Path) -> None:
    factors = find_or_build_factors(llama, progress=False)
    factors.path.write_bytes(factors.path.read_bytes()[:-1])
    assert find_or_build_factors(llama, progress=False) == factors
    assert open_factors(factors.path) == factors


def test_a_model_that_cannot_be_written_to_has_its_factors_in_the_users_cache(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (llama / "tinylora").write_text("a file where the directory should be")
    factors = find_or_build_factors(llama, progress=False)
    assert (tmp_path / "cache") in factors.path.parents
    written = factors.path.stat().st_mtime_ns
    assert find_or_build_factors(llama, progress=False).path.stat().st_mtime_ns == written


def test_nowhere_to_write_is_said(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("")
    (llama / "tinylora").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FactorsError, match="no directory to keep the factors in"):
        find_or_build_factors(llama, progress=False)


def test_builders_that_start_together_write_one_file(llama: Path) -> None:
    start = Barrier(4)

    def inode(_: int) -> int:
        start.wait()
        return find_or_build_factors(llama, progress=False).path.stat().st_ino

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(inode, range(4)))) == 1


def test_random_factors_are_orthonormal_and_have_the_size_of_the_weights(llama: Path) -> None:
    factors = build_factors(llama, kind="random", seed=3, progress=False)
    svd = build_factors(llama, rank=16, progress=False)
    for module in factors.modules:
        u, s, v = factors.triplet(module)
        torch.testing.assert_close(u.T @ u, torch.eye(2), rtol=0, atol=1e-6)
        torch.testing.assert_close(v.T @ v, torch.eye(2), rtol=0, atol=1e-6)
        assert svd.triplet(module)[1].min() / 2 < s[0] < svd.triplet(module)[1].max()


@pytest.mark.parametrize(
    ("options", "field"), [({"rank": 0}, "rank"), ({"rank": 65}, "rank"), ({"kind": "qr"}, "kind")]
)
def test_unknown_kinds_and_ranks_are_refused(llama: Path, options: dict[str, object], field: str) -> None:
    for build in (build_factors, find_or_build_factors):
        with pytest.raises(FactorsError) as error:
            build(llama, progress=False, **options)  # type: ignore[operator]
        assert error.value.field == field


def test_a_rank_above_the_size_of_a_weight_is_refused_and_leaves_no_file(llama: Path) -> None:
    with pytest.raises(FactorsError, match="too small for rank 17"):
        build_factors(llama, rank=17, progress=False)
    assert not list((llama / "tinylora").iterdir())


def test_progress_is_one_line_where_there_is_no_terminal(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_factors(llama)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "14 modules" in err


def test_a_measured_build_says_what_it_took(llama: Path) -> None:
    factors, cost = measure_build(llama)
    assert factors == find_or_build_factors(llama, progress=False)
    assert cost.seconds > 0
    assert cost.peak_bytes >= 0
