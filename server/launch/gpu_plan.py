"""How the engine and the training workers beside it share the machine's GPUs: who has which, and how much of it.

The engine takes a share of each of its GPUs at once (vLLM's `gpu_memory_utilization`) and fills what its weights leave
of it with the KV cache. A worker starts only with the first job, and must then find room for a second copy of the
model. So that room is kept from the beginning: on a GPU that the engine does not use where there is one, else on the
engine's own.

Everything here is arithmetic over facts, which gpu_facts.py reads; no GPU is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.core.host_memory import GIB, gib
from server.launch.start_checks import CannotStart
from server.training.worker.memory import PROCESS_BYTES

# Of every process that uses a GPU, besides what torch allocates: CUDA's context and loaded kernels.
CONTEXT_BYTES = PROCESS_BYTES
# What an engine computes in, besides weights and KV cache: activations, CUDA graphs, its context. vLLM measures it when
# it starts; this only recognises a start that cannot succeed.
ENGINE_WORK_BYTES = 3 * GIB // 2
# With less, hardly a request would fit.
MIN_KV_CACHE_BYTES = GIB
# A model spread over several GPUs is cut between whole layers, so one of them holds more than the mean.
UNEVEN = 1.1


@dataclass(frozen=True, slots=True)
class Gpu:
    """`name` is how CUDA_VISIBLE_DEVICES selects it; `total` and `free` are bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a plan is made from. Sizes are in bytes.

    gpus:            those that this process may use, in CUDA's order.
    engine:          places in `gpus` of those that the engine uses.
    engine_weights:  on each of them.
    worker_weights:  of one worker: its own copy of the model.
    worker_usual:    its weights, and passes of the usual length.
    worker_least:    its weights, and the shortest pass worth taking.
    workers:         how many there may be.
    worker_share:    what the operator wants kept for each, CUDA's context included; None: by the model's size.
    utilization:     vLLM's share of each GPU: its default, or what the operator has said.
    kv_cache:        size of the KV cache, where the operator has said that instead.
    is_given:        whether either is the operator's word, which is kept.
    """

    gpus: Sequence[Gpu]
    engine: Sequence[int]
    engine_weights: int
    worker_weights: int
    worker_usual: int
    worker_least: int
    workers: int = 1
    worker_share: int | None = None
    utilization: float = 0.92
    kv_cache: int | None = None
    is_given: bool = False


@dataclass(frozen=True, slots=True)
class WorkerGpus:
    """Where one worker runs: `names` of its GPUs, and the most bytes that it takes of each, CUDA's context included."""

    names: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """`utilization` is for the engine; None: as without a plan. `said` and `warning` are for the operator."""

    utilization: float | None
    workers: tuple[WorkerGpus, ...]
    said: str
    warning: str | None = None


def plan_gpus(facts: GpuFacts) -> GpuPlan:
    """Where workers go, and what that leaves the engine. CannotStart, with the sum, when the two do not fit."""
    engine = [facts.gpus[place] for place in facts.engine]
    if not facts.workers:
        return GpuPlan(None, (), f"{_names(engine)}: all for the engine, there are no training workers")
    usual, least = _wanted(facts)
    beside = _beside(facts, usual)
    shared = facts.workers - len(beside)
    said = [f"{_names(worker.names)}: {_size_on(worker)} for a training worker" for worker in beside]
    if not shared:
        return GpuPlan(None, beside, "; ".join([f"{_names(engine)}: all for the engine", *said]))

    room = min(_room(facts, gpu) for gpu in engine)
    wanted, needed = (shared * _share(size, len(engine)) for size in (usual, least))
    if room < needed:
        raise CannotStart(_no_room(facts, engine, shared, needed))
    kept = min(wanted, room)
    workers = (WorkerGpus(tuple(gpu.name for gpu in engine), kept // shared),) * shared
    utilization = None
    if not facts.is_given:
        # Rounded down: a share rounded up may be more than is free.
        utilization = min(math.floor(1e4 * (_limit(facts, gpu) - kept) / gpu.total) / 1e4 for gpu in engine)
    said.insert(0, _said_shared(facts, engine, shared, kept, utilization))
    warning = None if kept == wanted else _little_room(kept, wanted)
    return GpuPlan(utilization, beside + workers, "; ".join(said), warning)


def _wanted(facts: GpuFacts) -> tuple[int, int]:
    """What torch may allocate in one worker: usually, and at least. CannotStart when the operator allows less."""
    if facts.worker_share is None:
        return facts.worker_usual, facts.worker_least
    allowed = facts.worker_share - CONTEXT_BYTES
    if allowed < facts.worker_least:
        raise CannotStart(
            f"TINYLORA_WORKER_GPU_GIB is {facts.worker_share / GIB:g}, and a training worker takes at least "
            f"{gib(facts.worker_least + CONTEXT_BYTES)}: {_worker_sum(facts)}. Set it higher, leave it out (auto goes "
            "by the model's size), or set TINYLORA_TRAINING_WORKERS=0 and run `tinylora worker` on another machine."
        )
    return allowed, allowed


def _share(allocated: int, gpus: int) -> int:
    """Bytes kept on each of `gpus` GPUs for a worker that allocates `allocated` on all of them together."""
    return CONTEXT_BYTES + (allocated if gpus == 1 else math.ceil(UNEVEN * allocated / gpus))


def _beside(facts: GpuFacts, usual: int) -> tuple[WorkerGpus, ...]:
    """As many workers as fit on GPUs that the engine leaves: each on one GPU, or else spread over all of them."""
    others = [gpu for place, gpu in enumerate(facts.gpus) if place not in facts.engine]
    chosen: list[tuple[Gpu, ...]] = []

    def each(gpu: Gpu, groups: Sequence[Sequence[Gpu]]) -> int:
        """What every worker on the GPU has of it."""
        return _limit(facts, gpu) // max(1, sum(gpu in group for group in groups))

    def fit(groups: Sequence[Sequence[Gpu]]) -> bool:
        return all(each(gpu, groups) >= _share(usual, len(group)) for group in groups for gpu in group)

    while others and len(chosen) < facts.workers:
        freest = sorted(others, key=lambda gpu: -each(gpu, [*chosen, (gpu,)]))
        candidates = [*((gpu,) for gpu in freest), tuple(others)]
        found = next((group for group in candidates if fit([*chosen, group])), None)
        if found is None:
            break
        chosen.append(found)
    places = []
    for group in chosen:
        limits = [each(gpu, chosen) for gpu in group]
        if facts.worker_share is not None:
            limits.append(_share(usual, len(group)))
        places.append(WorkerGpus(tuple(gpu.name for gpu in group), min(limits)))
    return tuple(places)


def _limit(facts: GpuFacts, gpu: Gpu) -> int:
    """Most bytes of a GPU that may be taken, by all together."""
    return math.floor(min(facts.utilization * gpu.total, gpu.free))


def _room(facts: GpuFacts, gpu: Gpu) -> int:
    """What workers may have of one of the engine's GPUs."""
    if not facts.is_given:
        # The engine takes one share of all its GPUs, so the smallest decides how large it has to be.
        smallest = min(facts.gpus[place].total for place in facts.engine)
        share = (facts.engine_weights + ENGINE_WORK_BYTES + MIN_KV_CACHE_BYTES) / smallest
        return math.floor(_limit(facts, gpu) - share * gpu.total)
    if facts.kv_cache is not None:
        return gpu.free - facts.engine_weights - ENGINE_WORK_BYTES - facts.kv_cache
    return gpu.free - math.ceil(facts.utilization * gpu.total)


def _said_shared(facts: GpuFacts, engine: Sequence[Gpu], shared: int, kept: int, utilization: float | None) -> str:
    if facts.kv_cache is not None:
        share = f"{gib(facts.engine_weights)} of weights and {gib(facts.kv_cache)} of KV cache for the engine"
    else:
        taken = (facts.utilization if utilization is None else utilization) * min(gpu.total for gpu in engine)
        share = f"{gib(math.floor(taken))} for the engine"
    each = " of each" if len(engine) > 1 else f" of {gib(engine[0].total)}"
    whom = "a training worker" if shared == 1 else f"{shared} training workers"
    return f"{_names(engine)}:{each} {share}, {gib(kept)} kept for {whom} (TINYLORA_WORKER_GPU_GIB)"


def _little_room(kept: int, wanted: int) -> str:
    return (
        f"{gib(kept)} are left for training, and {gib(wanted)} would be usual: its passes will be shorter, which "
        "takes longer, and a job with long answers may not fit."
    )


def _no_room(facts: GpuFacts, engine: Sequence[Gpu], shared: int, needed: int) -> str:
    gpu = min(engine, key=lambda gpu: _room(facts, gpu))
    whom = "a training worker" if shared == 1 else f"{shared} training workers"
    each = f", on each of {len(engine)} GPUs" if len(engine) > 1 else ""
    over = ", over all of them" if len(engine) > 1 else ""
    spread = f" ({_worker_sum(facts)}{over})" if facts.worker_share is None else ", as TINYLORA_WORKER_GPU_GIB says"
    ways = ["TINYLORA_TRAINING_WORKERS=0 (and `tinylora worker` on another machine)"]
    if facts.workers > 1:
        ways.insert(0, "fewer TINYLORA_TRAINING_WORKERS")
    if facts.worker_share is not None:
        ways.insert(0, "a smaller TINYLORA_WORKER_GPU_GIB")
    if facts.is_given and facts.kv_cache is not None:
        ways.insert(0, "a smaller --kv-cache-memory-bytes")
        takes = (
            f"{gib(facts.engine_weights + facts.kv_cache)} of weights and KV cache, {gib(ENGINE_WORK_BYTES)} to work"
        )
    elif facts.is_given:
        ways.insert(0, "a smaller --gpu-memory-utilization, or none")
        takes = f"{gib(math.ceil(facts.utilization * gpu.total))}, as --gpu-memory-utilization says"
    else:
        takes = f"{gib(facts.engine_weights)} of weights, {gib(ENGINE_WORK_BYTES)} to work"
    least = "" if facts.is_given else f", at least {gib(MIN_KV_CACHE_BYTES)} for its KV cache"
    return (
        f"{_names([gpu])} has {gib(gpu.total)} ({gib(gpu.free)} free), too little for the engine and {whom}{each}: the "
        f"engine takes {takes}{least}; {whom} {gib(needed)}{spread}; {gib(needed - _room(facts, gpu))} are missing. "
        f"What helps: {', '.join(ways)}, another GPU, or a smaller model."
    )


def _worker_sum(facts: GpuFacts) -> str:
    passes = facts.worker_least - facts.worker_weights
    return f"{gib(facts.worker_weights)} of weights, {gib(passes)} for a short pass, {gib(CONTEXT_BYTES)} for CUDA"


def _size_on(worker: WorkerGpus) -> str:
    return f"{gib(worker.limit)} of each" if len(worker.names) > 1 else gib(worker.limit)


def _names(gpus: Sequence[Gpu | str]) -> str:
    names = [gpu if isinstance(gpu, str) else gpu.name for gpu in gpus]
    return f"GPU{'s' if len(names) > 1 else ''} {', '.join(names)}"
