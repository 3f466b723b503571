"""A vector as users have it, and as it goes over the wire.

Bytes are the numbers in their dtype, little-endian, row by row of (groups, u). Arrays of any library are taken by their
`tolist()`, so none of them has to be installed.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

DType = Literal["bfloat16", "float16", "float32"]


class Array(Protocol):
    """An array of numpy, torch, jax and others."""

    def tolist(self) -> Any: ...


Numbers: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | Array
VectorData: TypeAlias = bytes | bytearray | memoryview | Numbers


@dataclass(frozen=True)
class Vector:
    """A vector that is sent inside a request instead of being uploaded.

    data: bytes in `dtype`, or groups * u numbers, which are rounded to `dtype`. recipe: what differs from the server's
    default, such as {"groups": 1, "u": 2}.
    """

    data: VectorData
    recipe: Mapping[str, Any] | None = None
    dtype: DType = "bfloat16"

    def to_wire(self) -> dict[str, Any]:
        """The JSON object. Raises ValueError for a number that is not finite, TypeError for what is no vector."""
        given = {"recipe": dict(self.recipe)} if self.recipe else {}
        return {"vector": vector_to_wire(self.data), "dtype": self.dtype, **given}


def vector_to_wire(data: VectorData) -> str | list[float]:
    """Base64 of bytes, else a list of finite numbers. Raises ValueError and TypeError."""
    if isinstance(data, bytes | bytearray | memoryview):
        return base64.b64encode(data).decode()
    values = data if isinstance(data, list | tuple) else _values(data)
    numbers = list(_flat(values))
    for place, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"the vector's number {place} is {number}, expected a finite one")
    return numbers


def _values(data: object) -> Any:
    tolist = getattr(data, "tolist", None)
    if not callable(tolist):
        raise TypeError(
            f"the vector is {_article(data)}, expected bytes, a list of numbers, an array, or for a file or a PEFT "
            "directory a pathlib.Path"
        )
    return tolist()


def _flat(values: Any) -> Iterator[float]:
    for value in values if isinstance(values, list | tuple) else [values]:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        elif isinstance(value, bool) or not hasattr(value, "__float__"):
            raise TypeError(f"the vector holds {_article(value)} ({value!r:.40}), expected numbers")
        else:
            yield float(value)


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
