"""Adapters: their wire form and files survive a round trip, and garbage is refused as such."""

import base64
import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.adapter import Adapter
from adapters.errors import AdapterError, CheckpointError, FactorsError, RecipeError, VectorError
from adapters.recipe import Recipe

FACTORS = "0f" * 32
WIRE = {"recipe": {}, "factors": FACTORS, "dtype": "bfloat16", "vector": base64.b64encode(bytes(26)).decode()}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


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
def test_an_adapter_survives_the_wire_and_a_file(adapter: Adapter) -> None:
    wire = adapter.to_wire()
    assert wire.startswith("tinylora:1:") and wire.isascii() and wire.isprintable()
    assert Adapter.from_wire(wire) == adapter
    assert Adapter.from_safetensors(adapter.to_safetensors()) == adapter
    assert Adapter.from_wire(wire).digest == adapter.digest


def test_the_wire_form_of_a_26_byte_adapter_is_short() -> None:
    adapter = Adapter(Recipe(), FACTORS, "bfloat16", bytes(26))
    assert len(adapter.to_wire()) < 200


def test_the_golden_wire_form_still_reads() -> None:
    adapter = Adapter.from_wire(
        'tinylora:1:{"recipe":{"u":2,"groups":3},"factors":"'
        f'{FACTORS}","dtype":"bfloat16","vector":"gD8AwAA/SUAAAACA"}}'
    )
    assert adapter.recipe == Recipe(u=2, groups=3)
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


@given(st.text())
def test_any_other_text_is_refused_as_an_adapter(text: str) -> None:
    for wire in (text, f"tinylora:1:{text}"):
        with pytest.raises(AdapterError):
            Adapter.from_wire(wire)


@given(st.sampled_from(list(WIRE)), json_values)
def test_any_other_value_in_a_field_of_the_wire_form_is_refused(field: str, value: Any) -> None:
    if field == "recipe" and value == {}:
        return
    with pytest.raises(AdapterError):
        Adapter.from_wire("tinylora:1:" + json.dumps(WIRE | {field: value}))


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        "NaN",
        "{}",
        json.dumps(WIRE | {"more": 1}),
        "\udcff",
        json.dumps(WIRE)[:-1],
    ],
)
def test_hostile_wire_forms_are_refused(body: str) -> None:
    with pytest.raises(AdapterError):
        Adapter.from_wire("tinylora:1:" + body)


def test_something_that_is_no_text_is_refused() -> None:
    for value in (None, b"tinylora:1:{}", 3):
        with pytest.raises(AdapterError):
            Adapter.from_wire(value)  # type: ignore[arg-type]


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
    assert Adapter.from_wire(adapter.to_wire()) == adapter


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
