"""An adapter: recipe, digest of its factors, and the bytes of its vector. Immutable, and small enough for a request.

The content is the identity: two adapters are equal exactly when recipe, factors digest, dtype and bytes are, and
`digest` names that content, so nothing has to be looked up to serve it. Names, versions and owners are the registry's.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from adapters.vector.codec import decode, encode, numbers, parse_dtype
from adapters.vector.errors import AdapterError, CheckpointError, FactorsError, VectorError
from adapters.vector.recipe import DType, Recipe
from adapters.vector.safetensors_file import read_safetensors, safetensors_metadata

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DTYPES: dict[torch.dtype, DType] = {
    torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter.

    factors: SHA-256 hex digest of the factors file. data: the vector, encoded in `dtype` (see codec.py).

    Construction raises AdapterError, FactorsError or VectorError when a part is wrong or they do not fit.
    """

    recipe: Recipe
    factors: str
    dtype: DType
    data: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, Recipe):
            raise AdapterError(f"recipe must be a Recipe, got {type(self.recipe).__name__}", field="recipe")
        if not isinstance(self.factors, str) or not _DIGEST.fullmatch(self.factors):
            raise FactorsError(
                f"factors must be the SHA-256 of a factors file, 64 lower-case hex digits, got {self.factors!r:.80}",
                field="factors",
            )
        if not isinstance(self.data, bytes):
            raise VectorError(f"data must be bytes, got {type(self.data).__name__}", field="vector")
        object.__setattr__(self, "dtype", parse_dtype(self.dtype))
        numbers(self.data, self.recipe, self.dtype)

    @classmethod
    def from_vector(cls, v_GU: Tensor, recipe: Recipe, factors: str, dtype: DType) -> "Adapter":
        """The adapter of v (groups, u), rounded to `dtype`. VectorError for another shape, and as `codec.encode`."""
        if tuple(v_GU.shape) != (recipe.groups, recipe.u):
            raise VectorError(
                f"the vector must have the shape (groups, u) = ({recipe.groups}, {recipe.u}), got {tuple(v_GU.shape)}",
                field="vector",
            )
        return cls(recipe, factors, dtype, encode(v_GU, dtype))

    def vector(self) -> Tensor:
        """v, float32 (groups, u)."""
        return decode(self.data, self.recipe, self.dtype)

    def tensor(self) -> Tensor:
        """v, (groups, u) in the adapter's own dtype."""
        return self.vector().to(next(torch_dtype for torch_dtype, name in _DTYPES.items() if name == self.dtype))

    @property
    def digest(self) -> str:
        """SHA-256 hex digest of the content, however it was sent or stored."""
        head = _content_head(self.recipe, self.factors, self.dtype)
        return hashlib.sha256(head + self.data).hexdigest()

    def to_safetensors(self) -> bytes:
        """A safetensors file: `vector` (groups, u) in its dtype, recipe and factors in the metadata key `tinylora`."""
        metadata = json.dumps(
            {"factors": self.factors, "recipe": self.recipe.to_dict()}, sort_keys=True, separators=(",", ":")
        )
        return safetensors.torch.save({"vector": self.tensor()}, metadata={"tinylora": metadata})

    @classmethod
    def from_safetensors(cls, data: bytes) -> "Adapter":
        """The adapter that `to_safetensors` wrote. CheckpointError for another file; raises as construction does."""
        tensors = read_safetensors(data)
        if tensors.keys() != {"vector"}:
            raise CheckpointError(f"expected one tensor named 'vector', got {list(tensors)!r:.200}")
        vector = tensors["vector"]
        if vector.dtype not in _DTYPES or vector.ndim != 2:
            raise CheckpointError(
                f"'vector' must be (groups, u) in {', '.join(_DTYPES.values())}, got {tuple(vector.shape)} "
                f"in {vector.dtype}",
            )
        content = _parse_object(safetensors_metadata(data).get("tinylora", "null"))
        if content.keys() != {"factors", "recipe"}:
            raise CheckpointError(
                f"the metadata key 'tinylora' must hold recipe and factors, got {list(content)!r:.200}", field="file"
            )
        return cls.from_vector(vector, Recipe.from_dict(content["recipe"]), content["factors"], _DTYPES[vector.dtype])


@lru_cache(maxsize=1024)
def _content_head(recipe: Recipe, factors: str, dtype: DType) -> bytes:
    head = {"dtype": dtype, "factors": factors, "recipe": recipe.to_dict()}
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\0"


def _parse_object(text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"not JSON: {cause}") from cause
    if not isinstance(content, dict):
        raise CheckpointError(f"expected a JSON object, got {text!r:.40}")
    return content
