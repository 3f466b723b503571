"""Reading safetensors files that others wrote: whatever is in one, it is read or refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from adapters.vector.errors import CheckpointError

# KeyError: a dtype torch has no name for. RuntimeError, TypeError: an empty tensor of a shape that no tensor can have.
_UNREADABLE = (SafetensorError, KeyError, ValueError, RuntimeError, TypeError)


def read_safetensors(source: bytes | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of its bytes. CheckpointError when it cannot be read."""
    try:
        return safetensors.torch.load(source) if isinstance(source, bytes) else safetensors.torch.load_file(source)
    except _UNREADABLE as error:
        raise CheckpointError(f"not a readable safetensors file: {error!s:.200}") from error


def safetensors_metadata(data: bytes) -> Mapping[str, str]:
    """The metadata of a safetensors file in memory, which the library does not return; it must have parsed the file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: Mapping[str, str] = header.get("__metadata__") or {}
    return found
