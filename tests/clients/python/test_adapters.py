"""`client.adapters`, sync and async, against the real gateway on a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

import tinylora_client
from tinylora_client import Vector

MESSAGES = [{"role": "user", "content": "hello"}]


def test_life_of_an_adapter(client: Any) -> None:
    first = client.adapters.upload("acme/math", [0.5] * 13, metadata={"team": "blue"})
    assert (first.id, first.metadata, first.recipe.groups) == ("acme/math@1", {"team": "blue"}, 13)
    data = np.arange(2, dtype="<f4").tobytes()
    client.adapters.upload("acme/math", data, dtype="float32", recipe={"groups": 1, "u": 2})
    assert client.adapters.download("acme/math") == data
    assert client.adapters.get("acme/math@1").version == 1
    assert [one.version for one in client.adapters.versions("acme/math")] == [2, 1]

    client.adapters.set_alias("acme/math", "prod", 1)
    assert client.adapters.set_alias("acme/math", "prod", {1: 90, 2: 10}).versions == {"1": 90.0, "2": 10.0}
    assert client.adapters.roll_back_alias("acme/math", "prod").versions == {"1": 1.0}
    assert [one.id for one in client.adapters.list_aliases("acme/math")] == ["acme/math@prod"]
    assert len(list(client.adapters.alias_history("acme/math", "prod"))) == 3
    answer = client.chat.completions.create(model="acme/math@prod", messages=MESSAGES)
    assert answer.choices[0].message.content.startswith("acme/math@1: ")

    client.adapters.remove_alias("acme/math", "prod")
    assert client.adapters.delete("acme/math").versions == [1, 2]
    with pytest.raises(tinylora_client.AdapterNotFoundError):
        client.adapters.get("acme/math")
    client.adapters.restore("acme/math")
    assert client.adapters.download("acme/math@2") == data
    assert client.adapters.set_public("acme/math").public


def test_an_alias_is_changed_only_as_it_was_read(client: Any) -> None:
    for number in (1, 2):
        client.adapters.upload("acme/math", [number / 4] * 13)
        client.adapters.set_alias("acme/math", "prod", number)
    bad = client.adapters.get_alias("acme/math", "prod")
    # Of two who roll back what they saw, the second does not bring it back.
    good = client.adapters.roll_back_alias("acme/math", "prod", if_match=bad.etag)
    for change in (
        lambda: client.adapters.roll_back_alias("acme/math", "prod", if_match=bad.etag),
        lambda: client.adapters.set_alias("acme/math", "prod", 2, if_match=bad.etag),
        lambda: client.adapters.remove_alias("acme/math", "prod", if_match=bad.etag),
    ):
        with pytest.raises(tinylora_client.PreconditionFailedError):
            change()
    assert list(client.adapters.list_aliases("acme/math")) == [good]
    moved = client.adapters.set_alias("acme/math", "prod", {1: 1, 2: 1}, if_match=good.etag)
    assert client.adapters.remove_alias("acme/math", "prod", if_match=moved.etag).deleted


@pytest.mark.parametrize(
    "vector",
    [
        [0.5] * 13,
        [[0.5]] * 13,
        np.full((13, 1), 0.5),
        torch.full((13, 1), 0.5, dtype=torch.bfloat16),
        b"\x00\x3f" * 13,
        Vector([0.5] * 13),
    ],
    ids=["list", "rows", "numpy", "torch", "bytes", "Vector"],
)
def test_a_vector_in_every_form_is_the_same_26_bytes(client: Any, vector: Any) -> None:
    client.adapters.upload("same", vector)
    assert client.adapters.download("same") == b"\x00\x3f" * 13


def test_a_file_that_was_downloaded_is_uploaded_with_its_recipe(client: Any, tmp_path: Path) -> None:
    client.adapters.upload("small", [0.5, -1.0], recipe={"groups": 1, "u": 2}, dtype="float32")
    file = tmp_path / "small.safetensors"
    file.write_bytes(client.adapters.download("small", format="safetensors"))
    copy = client.adapters.upload("copy", file, metadata={"from": "small"})
    assert (copy.recipe.u, copy.dtype, copy.metadata) == (2, "float32", {"from": "small"})
    raw = tmp_path / "raw.bin"
    raw.write_bytes(b"\x00\x3f" * 13)
    assert client.adapters.upload("raw", raw).bytes == 26


def test_listing_goes_through_all_pages_of_what_is_asked_for(client: Any) -> None:
    for number in range(5):
        client.adapters.upload(f"a/{number}", [0.0] * 13, metadata={"parity": str(number % 2)})
    client.adapters.upload("b", [0.0] * 13)
    assert [one.name for one in client.adapters.list(prefix="a/", limit=2)] == [f"a/{number}" for number in range(5)]
    assert [one.name for one in client.adapters.list(metadata={"parity": "1"})] == ["a/1", "a/3"]
    assert list(client.adapters.list(public=True)) == []


def test_many_are_stored_with_an_outcome_each_and_come_back_as_they_went(client: Any) -> None:
    many = [{"name": f"m/{number}", "vector": [number / 4] * 13} for number in range(5)]
    result = client.adapters.upload_many([*many, {"name": "bad", "vector": [0.0]}])
    assert (result.stored, [(one.index, one.name) for one in result.rejected]) == (5, [(5, "bad")])
    assert "13 groups" in result.rejected[0].message
    exported = list(client.adapters.export(prefix="m/", page=2))
    assert [one["name"] for one in exported] == [one["name"] for one in many]
    again = client.adapters.upload_many([{**one, "name": f"again/{one['name']}"} for one in exported])
    assert (again.stored, again.rejected) == (5, [])
    assert client.adapters.download("again/m/3") == client.adapters.download("m/3")


def test_mistakes_are_typed_and_still_the_openai_packages(client: Any, tmp_path: Path) -> None:
    with pytest.raises(tinylora_client.InvalidVectorError, match="26 bytes") as caught:
        client.adapters.upload("short", b"\0\0")
    assert isinstance(caught.value, openai.BadRequestError)
    assert (caught.value.code, caught.value.param) == ("invalid_vector", "vector")
    with pytest.raises(tinylora_client.InvalidRecipeError):
        client.adapters.upload("short", [0.0], recipe={"rank": -1})
    client.adapters.upload("once", [0.0] * 13, create_only=True)
    with pytest.raises(tinylora_client.PreconditionFailedError):
        client.adapters.upload("once", [0.0] * 13, create_only=True)
    with pytest.raises(tinylora_client.AliasNotFoundError):
        client.adapters.get_alias("once", "prod")
    with pytest.raises(ValueError, match="number 1 is nan"):
        client.adapters.upload("nan", [0.0, float("nan")])
    with pytest.raises(TypeError, match=r"a str, expected .* a pathlib.Path"):
        client.adapters.upload("path", "some/directory")
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors"):
        client.adapters.upload("empty", tmp_path)
