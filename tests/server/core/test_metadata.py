"""Metadata as OpenAI bounds it: what fits passes, and what does not is told."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.errors import BadRequest
from server.core.metadata import metadata_of


@pytest.mark.parametrize("value", [None, {}, {"k" * 64: "v" * 512}, {f"{n}": "" for n in range(16)}, {"a": "b\nc"}])
def test_what_fits_passes(value: Any) -> None:
    assert metadata_of(value) == (value or {})


@pytest.mark.parametrize(
    ("value", "param", "told"),
    [
        ("x", "metadata", "at most 16 pairs"),
        ({f"{n}": "" for n in range(17)}, "metadata", "an object with 17 keys"),
        ({"k": 1}, "metadata.k", "is 1, expected text"),
        ({"k": None}, "metadata.k", "is None, expected text"),
        ({"k": "v" * 513}, "metadata.k", "text of 513 characters"),
        ({"": "v"}, "metadata.", "a key of 1 to 64"),
        ({"k" * 65: "v"}, f"metadata.{'k' * 64}", "a key of 1 to 64"),
    ],
)
def test_what_does_not_fit_is_told(value: Any, param: str, told: str) -> None:
    with pytest.raises(BadRequest, match=told) as caught:
        metadata_of(value)
    assert (caught.value.param, caught.value.code) == (param, "invalid_metadata")


@pytest.mark.parametrize("value", [{"k": "a\nb"}, {"k\0": "v"}])
def test_what_can_be_searched_has_to_be_printable(value: Any) -> None:
    assert metadata_of(value) == value
    with pytest.raises(BadRequest, match="expected printable text"):
        metadata_of(value, printable=True)
