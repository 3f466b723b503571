"""Defaults of vLLM that do not suit a CPU, and what is used instead unless the user says otherwise.

Only flags that were not given are changed, so vLLM's documentation holds for every flag that is.
"""

from __future__ import annotations

import os
from argparse import Namespace

from adapters.factors.quantised import is_quantised
from server.core.cpu_features import computes_bfloat16

# vLLM would take nearly all memory of the NUMA node, or refuse to start where that much is not free.
KV_CACHE_BYTES = 2 << 30
# A step of more prompt tokens takes so long on a CPU that every other request's stream stalls, and start-up runs one.
MAX_BATCHED_TOKENS = 512
# Only whole blocks are cached as prefixes. In vLLM's 128 few prompts fill even one; the kernels want multiples of 32.
BLOCK_TOKENS = 32


def set_cpu_defaults(args: Namespace) -> None:
    """Fill in what was left to default in vLLM's parsed arguments."""
    if args.kv_cache_memory_bytes is None and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        args.kv_cache_memory_bytes = KV_CACHE_BYTES
    if args.max_num_batched_tokens is None:
        args.max_num_batched_tokens = MAX_BATCHED_TOKENS
    if args.block_size is None:
        args.block_size = BLOCK_TOKENS
    # vLLM has no float32 kernels for weights of four bits.
    if args.dtype == "auto" and not is_quantised(args.model):
        args.dtype = "auto" if computes_bfloat16() else "float32"
