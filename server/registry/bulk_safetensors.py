"""Many adapters as a safetensors file, a tensor per adapter:

    tensor "acme/math" of (groups, u) in its dtype; metadata key "tinylora" = {"recipe", "factors"} of all tensors, and
    "tinylora:acme/math" = {"recipe", "factors", "metadata"} of one where it differs

It begins with an index of all tensors, so it is read whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import safetensors.torch
from torch import Tensor

from adapters.checkpoints.checkpoint_file import check_tensor_count
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.codec import parse_dtype
from adapters.vector.errors import CheckpointError
from adapters.vector.safetensors_file import read_safetensors, safetensors_metadata
from server.core.errors import ApiError, BadRequest, quoted
from server.core.json_text import InvalidJson, parse_json
from server.core.metadata import metadata_of
from server.core.names import check_new_name
from server.registry.bulk_items import Item, Rejected
from server.registry.creation import NewVersion
from server.registry.spec import check_servable, errors_under, parse_recipe
from server.registry.versions import StoredVersion

MAX_FILE_ADAPTERS = 50_000
COMMON_KEY = "tinylora"
ONE_KEY = "tinylora:"


def parse_safetensors(data: bytes, factors: Factors, base_models: Collection[str]) -> Iterator[Item]:
    """The adapters in a safetensors file. BadRequest when it is none, has too many, or what it says of all tensors is
    wrong."""
    try:
        check_tensor_count(data, MAX_FILE_ADAPTERS)
    except CheckpointError as error:
        raise BadRequest(f"{error.message}; send them in several files", code="invalid_checkpoint") from error
    try:
        tensors = read_safetensors(data)
    except CheckpointError as error:
        raise BadRequest(f"the body is {error.message}", code="invalid_checkpoint") from error
    metadata = safetensors_metadata(data)
    common = _description(metadata, COMMON_KEY)
    parse_recipe(common.get("recipe"), factors, COMMON_KEY)
    for name, tensor in tensors.items():
        try:
            check_new_name(name, base_models)
            fields = common | _description(metadata, ONE_KEY + name)
            yield NewVersion(
                name, _adapter_of(tensor, fields, factors), metadata_of(fields.get("metadata"), printable=True)
            )
        except ApiError as error:
            yield Rejected(name, error)


def _description(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    if key not in metadata:
        return {}
    try:
        value = parse_json(metadata[key].encode())
    except InvalidJson as error:
        said = error.said_of(f"metadata[{quoted(key)}]")
        raise BadRequest(said, param=key, code="invalid_json") from None
    if not isinstance(value, dict) or not value.keys() <= {"recipe", "factors", "metadata"}:
        raise BadRequest(
            f"metadata[{quoted(key)}] is {quoted(value)}, expected an object with recipe, factors or metadata",
            param=key,
            code="invalid_json",
        )
    return value


def _adapter_of(tensor: Tensor, fields: Mapping[str, Any], factors: Factors) -> Adapter:
    recipe = parse_recipe(fields.get("recipe"), factors, "recipe")
    with errors_under(""):
        dtype = parse_dtype(str(tensor.dtype).removeprefix("torch."))
        if tensor.numel() != recipe.num_parameters:
            raise BadRequest(
                f"the tensor has shape {tuple(tensor.shape)}, expected ({recipe.groups}, {recipe.u})",
                param="vector",
                code="invalid_vector",
            )
        vector = tensor.reshape(recipe.groups, recipe.u)
        adapter = Adapter.from_vector(vector, recipe, fields.get("factors", factors.digest), dtype)
    check_servable(adapter, factors)
    return adapter


def safetensors_file(versions: Sequence[StoredVersion]) -> bytes:
    """Versions of different names as a file that `parse_safetensors` reads back."""
    metadata: dict[str, str] = {}
    common = _describe(versions[0]) if versions else {}
    if versions:
        metadata[COMMON_KEY] = json.dumps(common)
    for stored in versions:
        own = {key: value for key, value in _describe(stored).items() if value != common[key]}
        if stored.metadata:
            own["metadata"] = dict(stored.metadata)
        if own:
            metadata[ONE_KEY + stored.name] = json.dumps(own)
    return safetensors.torch.save({stored.name: stored.adapter.tensor() for stored in versions}, metadata or None)


def fitting_file(versions: Iterable[StoredVersion], most: int, most_bytes: int) -> tuple[list[StoredVersion], bool]:
    """As many of `versions` as go into a safetensors file of `most` tensors and `most_bytes` (but one, if it is longer
    by itself); and whether any are left. At most one more than those is taken from the iterator."""
    fitting: list[StoredVersion] = []
    size = 0
    for stored in versions:
        size += _most_bytes_in_file(stored)
        if fitting and (len(fitting) == most or size > most_bytes):
            return fitting, True
        fitting.append(stored)
    return fitting, False


def _most_bytes_in_file(stored: StoredVersion) -> int:
    """Its vector, and its part of the header: JSON within JSON, in which a character takes at most 14 bytes."""
    text = len(stored.name) + sum(len(key) + len(value) for key, value in stored.metadata.items())
    return len(stored.adapter.data) + 1024 + 14 * text


def _describe(stored: StoredVersion) -> dict[str, Any]:
    return {"recipe": stored.adapter.recipe.to_dict(), "factors": stored.adapter.factors}
