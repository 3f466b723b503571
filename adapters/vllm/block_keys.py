"""What an adapter adds to the keys of the KV cache's blocks: the SHA-256 of what its request carries, not all of that.

vLLM puts an adapter's path, here all of its matrices (engine_form.py), into the key of every block and hashes it there
again: of a large model at rank 16 that is 0.7 MB, and half a second for a prompt of 8,192 tokens. Here it is hashed
once for each request.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

_KEY = "tinylora_block_key"


def hash_adapters_once(kv_cache_utils: Any) -> None:
    """Replace vLLM's function that gives an adapter's part of a key. Calling it again does nothing."""
    original = kv_cache_utils._gen_lora_extra_hash_keys
    if getattr(original, "is_tinylora_seam", False):
        return

    def keys(request: Any) -> list[Any]:
        known: list[Any] | None = getattr(request, _KEY, None)
        if known is None:
            known = [(*key, sha256(path.encode()).hexdigest()) for *key, path in original(request)]
            setattr(request, _KEY, known)
        return known

    keys.is_tinylora_seam = True  # type: ignore[attr-defined]
    kv_cache_utils._gen_lora_extra_hash_keys = keys
