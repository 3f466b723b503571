"""What gpu_plan.py decides by, read from the machine, vLLM's arguments and the model's files.

NVML is asked and not CUDA, as vLLM does it: a process that has initialised CUDA cannot fork an engine.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from adapters.factors.weight_sizes import weight_bytes
from adapters.vector.errors import FactorsError
from server.core.host_memory import GIB, available_memory
from server.launch.gpu_plan import Gpu, GpuFacts
from server.training.worker.memory import pass_bytes, weights_bytes

ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
# Tokens in a worker's pass: enough that a step of usual jobs takes few, and those below which it takes very many.
USUAL_TOKENS = 2**13
LEAST_TOKENS = 2**11


def order_as_nvml() -> None:
    """Have CUDA count GPUs as NVML does, in this process and those that it starts, unless the operator says otherwise.

    By default CUDA has the fastest first, and the number of a GPU would mean another one to CUDA than to NVML.
    """
    os.environ.setdefault(ORDER_VARIABLE, "PCI_BUS_ID")


def visible_gpus(nvml: Any, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to this process, in its order. `visible`: CUDA_VISIBLE_DEVICES, None when it is not set.

    nvml: the module pynvml. A GPU without memory of its own (DGX Spark) has the machine's, as it has for vLLM.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        names = map(str, range(nvml.nvmlDeviceGetCount())) if visible is None else visible.split(",")
        gpus = _gpus(nvml, [name.strip() for name in names])
        # Of a machine with GPUs cut in parts (MIG), CUDA shows one part and nothing else, unless others are named.
        return next(((gpu,) for gpu, is_first_part in gpus if is_first_part), tuple(gpu for gpu, _ in gpus))
    finally:
        nvml.nvmlShutdown()


def _gpus(nvml: Any, names: Sequence[str]) -> list[tuple[Gpu, bool]]:
    """Each with whether it is the first part of a GPU that is cut in parts, in the place of its number."""
    gpus: list[tuple[Gpu, bool]] = []
    for name in names:
        try:
            # Else the UUID of a GPU, or of a part of one.
            is_number = name.lstrip("-").isdigit()
            handle = nvml.nvmlDeviceGetHandleByIndex(int(name)) if is_number else nvml.nvmlDeviceGetHandleByUUID(name)
            part = _first_part(nvml, handle) if is_number else None
            total, free = _memory(nvml, handle if part is None else part)
            shown = name if part is None else nvml.nvmlDeviceGetUUID(part)
        except nvml.NVMLError:
            break  # as CUDA, which shows those before the first that there is not
        gpus.append((Gpu(shown, total, free), part is not None))
    return gpus


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """Bytes in all, and bytes that are free."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:  # it has none of its own
        return int(psutil.virtual_memory().total), available_memory()
    return int(memory.total), int(memory.free)


def _first_part(nvml: Any, handle: Any) -> Any | None:
    """The first part of a GPU that this process may use; None for a GPU that is not cut in parts."""
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most GPUs cannot be cut
        return None
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
    return None


def engine_places(args: Namespace, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Which of `gpus` the engine of vLLM's `args` uses. All, where something else decides (Ray, several machines)."""
    if args.distributed_executor_backend == "ray" or args.data_parallel_backend == "ray" or args.nnodes > 1:
        return tuple(range(len(gpus)))
    if args.device_ids:
        places = {gpu.name: place for place, gpu in enumerate(gpus)}
        chosen = [place if isinstance(place, int) else places.get(place, len(gpus)) for place in args.device_ids]
        return tuple(place for place in chosen if place < len(gpus)) or tuple(range(len(gpus)))
    is_one_of_many = args.data_parallel_rank is not None or args.data_parallel_external_lb
    local = 1 if is_one_of_many else args.data_parallel_size_local or args.data_parallel_size
    return tuple(range(min(len(gpus), local * gpus_per_replica(args))))


def gpus_per_replica(args: Namespace) -> int:
    """Over how many GPUs one copy of the engine's weights is spread."""
    size: int = args.tensor_parallel_size * args.pipeline_parallel_size * args.prefill_context_parallel_size
    return size


def gpu_facts(
    args: Namespace, gpus: Sequence[Gpu], model: Path, trained: Path | None, workers: int, worker_gib: float | None
) -> GpuFacts:
    """The facts for vLLM's `args`, which serves `model`, and `workers` that train on the weights in `trained`.

    Both are directories; `trained` is None when nobody trains. Raises FactorsError for weights that cannot be read,
    and for a model that transformers does not know.
    """
    wide = args.dtype in ("float32", "float")
    engine = weight_bytes(model, 4 if wide else 2) // gpus_per_replica(args)
    weights, usual, least = (0, 0, 0) if trained is None else _worker_sizes(trained)
    return GpuFacts(
        gpus=gpus,
        engine=engine_places(args, gpus),
        engine_weights=engine,
        worker_weights=weights,
        worker_usual=usual,
        worker_least=least,
        workers=0 if trained is None else workers,
        worker_share=None if worker_gib is None else int(worker_gib * GIB),
        utilization=args.gpu_memory_utilization,
        kv_cache=args.kv_cache_memory_bytes,
        is_given=args.memory_is_given,
    )


def _worker_sizes(trained: Path) -> tuple[int, int, int]:
    """Bytes of a worker's weights, and of weights and passes together: usual ones, and the least."""
    try:
        config = AutoConfig.from_pretrained(trained)
    except (OSError, ValueError, KeyError) as error:
        raise FactorsError(f"{trained} is not a language model that transformers knows: {error}") from error
    # As the worker has them on a GPU.
    weights = weights_bytes(config, torch.bfloat16)
    passes = pass_bytes(config, torch.bfloat16, checkpointing=True)
    return weights, weights + passes.of(USUAL_TOKENS), weights + passes.of(LEAST_TOKENS)
