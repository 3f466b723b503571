"""Keeps what one request left in a block of the KV cache from the next one that gets it: in float16, on a CPU.

vLLM's attention on a CPU multiplies what is in a block behind a request's own tokens by zero, and zero times infinity
is no number. float16 ends at 65504, which a strong adapter takes values beyond, and so does a model by itself, now and
then. So the answers of whoever gets the block next would be noise, and stay in the prefix cache.

Here such a block is zeroed when it is given out, by vLLM's own means, which it uses for other caches. bfloat16 and
float32 stay finite with any adapter that can be uploaded, and pay nothing.

Design decision: blocks are zeroed, and no value is bounded instead. A bound on each linear's product does not hold for
what is computed from several of them.
"""

from __future__ import annotations

from typing import Any

import torch


def zero_blocks_of_float16(kv_cache_config: Any) -> None:
    """Have vLLM's KVCacheConfig ask for it. Calling it again does nothing."""
    from vllm.v1.kv_cache_interface import iter_layer_specs

    original = kv_cache_config.needs_kv_cache_zeroing.fget
    if getattr(original, "is_tinylora_seam", False):
        return

    def needs_kv_cache_zeroing(self: Any) -> bool:
        specs = (spec for group in self.kv_cache_groups for spec in iter_layer_specs(group.kv_cache_spec))
        return bool(original(self)) or any(getattr(spec, "dtype", None) == torch.float16 for spec in specs)

    needs_kv_cache_zeroing.is_tinylora_seam = True  # type: ignore[attr-defined]
    kv_cache_config.needs_kv_cache_zeroing = property(needs_kv_cache_zeroing)
