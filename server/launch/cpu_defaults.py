"""Defaults of vLLM that do not suit a CPU, and what is used instead unless the user says otherwise.

Only flags that were not given are changed, so vLLM's documentation holds for every flag that is.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import MutableMapping

from adapters.factors.quantised import is_quantised
from server.core.cgroups import cpu_quota
from server.core.cpu_features import computes_bfloat16

# vLLM would take nearly all memory of the NUMA node, or refuse to start where that much is not free.
KV_CACHE_BYTES = 2 << 30
# A step of more prompt tokens takes so long on a CPU that every other request's stream stalls, and start-up runs one.
MAX_BATCHED_TOKENS = 512
# Only whole blocks are cached as prefixes. In vLLM's 128 few prompts fill even one; the kernels want multiples of 32.
BLOCK_TOKENS = 32


def set_cpu_defaults(args: Namespace) -> None:
    """Fill in what was left to default in vLLM's parsed arguments, and in the environment."""
    keep_to_quota(args.tensor_parallel_size * args.pipeline_parallel_size, cpu_quota(), os.environ)
    if args.kv_cache_memory_bytes is None and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        args.kv_cache_memory_bytes = KV_CACHE_BYTES
    if args.max_num_batched_tokens is None:
        args.max_num_batched_tokens = MAX_BATCHED_TOKENS
    if args.block_size is None:
        args.block_size = BLOCK_TOKENS
    # vLLM has no float32 kernels for weights of four bits.
    if args.dtype == "auto" and not is_quantised(args.model):
        args.dtype = "auto" if computes_bfloat16() else "float32"


def keep_to_quota(processes: int, quota: float | None, environment: MutableMapping[str, str]) -> None:
    """Have vLLM's `processes` take no more threads than a container may have CPUs, by its `quota` (docker run --cpus).

    vLLM has a thread for every core that it sees, and sees those of the whole machine: with a quota of 2 on 64 cores,
    64 threads would wait for each other most of the time. They are not bound to cores, as other containers use the
    same ones.
    """
    cores = len(os.sched_getaffinity(0)) if quota is not None else 0
    if quota is None or quota >= cores or {"OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"} & environment.keys():
        return
    environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    environment["OMP_NUM_THREADS"] = str(max(1, int(quota) // processes))
