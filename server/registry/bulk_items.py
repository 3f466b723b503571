"""Many adapters in one body: an item is an adapter to store, or what is wrong with it.

They come as lines (bulk_ndjson.py) or as a file of tensors (bulk_safetensors.py). What is exported as either can be
imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.core.errors import ApiError
from server.registry.creation import NewVersion


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that cannot be stored, and why. `name` is None when it has none that could be read."""

    name: str | None
    error: ApiError


Item = NewVersion | Rejected
