"""Adapters: their files survive a round trip, and garbage is refused as such."""

import base64
import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError, CheckpointError, FactorsError, RecipeError, VectorError
from adapters.vector.recipe import Recipe

FACTORS = "0f" * 32


@st.composite
def any_adapter(draw: Any) -> Adapter:
    rank = draw(st.integers(1, 3))
    projection = draw(st.sampled_from(["sha256", "elementary"]))
    u = rank**2 if projection == "elementary" else draw(st.integers(1, 4))
    groups = draw(st.integers(1, 20))
    recipe = Recipe(
        rank=rank, u=u, groups=groups, seed=draw(st.integers(0, 2**63 - 1)), projection=projection,
        tying=draw(st.sampled_from(["tiled", "structured"])), convention=draw(st.sampled_from(["paper", "sqrt"])),
    )  # fmt: skip
    numbers = draw(st.lists(st.floats(-100, 100), min_size=groups * u, max_size=groups * u))
    dtype = draw(st.sampled_from(["bfloat16", "float16", "float32"]))
    return Adapter.from_vector(torch.tensor(numbers).reshape(groups, u), recipe, FACTORS, dtype)


@given(any_adapter())
def test_an_adapter_survives_a_file(adapter: Adapter) -> None:
    read = Adapter.from_safetensors(adapter.to_safetensors())
    assert read == adapter
    assert read.digest == adapter.digest


def test_the_golden_digest_still_holds() -> None:
    data = base64.b64decode("gD8AwAA/SUAAAACA")
    adapter = Adapter(Recipe(u=2, groups=3), FACTORS, "bfloat16", data)
    assert adapter.vector().tolist() == [[1.0, -2.0], [0.5, 3.140625], [0.0, -0.0]]
    assert adapter.digest == "b10f04db79ceeb85c0e34f8760b261190a3b3165ee22d0386da42ce018844aba"


def test_the_file_can_be_read_by_anybody_who_reads_safetensors() -> None:
    v_GU = torch.randn(13, 1).to(torch.bfloat16)
    adapter = Adapter.from_vector(v_GU, Recipe(), FACTORS, "bfloat16")
    tensors = safetensors.torch.load(adapter.to_safetensors())
    assert torch.equal(tensors["vector"], v_GU)


def test_the_digest_changes_with_every_part_of_the_content() -> None:
    adapter = Adapter(Recipe(), FACTORS, "bfloat16", bytes(26))
    others = [
        replace(adapter, recipe=Recipe(seed=1)),
        replace(adapter, factors="0e" * 32),
        replace(adapter, dtype="float16"),
        replace(adapter, data=b"\1" + bytes(25)),
    ]
    assert len({adapter.digest, *(other.digest for other in others)}) == 5


def test_an_adapter_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Adapter(Recipe(), FACTORS, "bfloat16", bytes(26)).data = b""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"factors": "abc"}, FactorsError),
        ({"factors": FACTORS.upper()}, FactorsError),
        ({"factors": None}, FactorsError),
        ({"dtype": "int8"}, VectorError),
        ({"data": bytes(25)}, VectorError),
        ({"data": b"\xff" * 26}, VectorError),
        ({"data": "text"}, VectorError),
        ({"recipe": {}}, AdapterError),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], error: type[AdapterError]) -> None:
    parts = {"recipe": Recipe(), "factors": FACTORS, "dtype": "bfloat16", "data": bytes(26)} | changes
    with pytest.raises(error):
        Adapter(**parts)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_safetensors_file_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        Adapter.from_safetensors(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_another_valid_adapter(position: int, value: int) -> None:
    data = bytearray(Adapter(Recipe(), FACTORS, "bfloat16", bytes(26)).to_safetensors())
    data[position % len(data)] = value
    try:
        adapter = Adapter.from_safetensors(bytes(data))
    except AdapterError:
        return
    assert Adapter.from_safetensors(adapter.to_safetensors()) == adapter


@pytest.mark.parametrize(
    ("tensors", "metadata", "error"),
    [
        ({"vector": torch.zeros(13, 1)}, None, CheckpointError),
        ({"vector": torch.zeros(13, 1)}, {"tinylora": "[]"}, CheckpointError),
        ({"vector": torch.zeros(13, 1)}, {"tinylora": "{"}, CheckpointError),
        ({"vector": torch.zeros(13, 1)}, {"tinylora": "{}"}, CheckpointError),
        ({"other": torch.zeros(13, 1)}, {"tinylora": json.dumps({"recipe": {}, "factors": FACTORS})}, CheckpointError),
        ({"vector": torch.zeros(13)}, {"tinylora": json.dumps({"recipe": {}, "factors": FACTORS})}, CheckpointError),
        (
            {"vector": torch.zeros(13, 1, dtype=torch.int8)},
            {"tinylora": json.dumps({"recipe": {}, "factors": FACTORS})},
            CheckpointError,
        ),
        ({"vector": torch.zeros(14, 1)}, {"tinylora": json.dumps({"recipe": {}, "factors": FACTORS})}, VectorError),
        ({"vector": torch.zeros(13, 1)}, {"tinylora": json.dumps({"recipe": [], "factors": FACTORS})}, RecipeError),
    ],
)
def test_a_file_without_a_usable_adapter_is_refused(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, error: type[AdapterError]
) -> None:
    with pytest.raises(error):
        Adapter.from_safetensors(safetensors.torch.save(tensors, metadata=metadata))
