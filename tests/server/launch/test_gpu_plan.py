"""How engine and training workers share GPUs: who has which and how much, and what is said when they do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.host_memory import GIB
from server.launch.gpu_plan import (
    CONTEXT_BYTES,
    ENGINE_WORK_BYTES,
    MIN_KV_CACHE_BYTES,
    Gpu,
    GpuFacts,
    GpuPlan,
    WorkerGpus,
    plan_gpus,
)
from server.launch.start_checks import CannotStart


def gpus(*sizes: float) -> tuple[Gpu, ...]:
    return tuple(Gpu(str(place), int(size * GIB), int(size * GIB)) for place, size in enumerate(sizes))


def facts(*sizes: float, weights: float = 14, engine: tuple[int, ...] = (0,), **more: Any) -> GpuFacts:
    """A model of 14 GiB, whose worker usually takes 8 GiB besides and at least 2."""
    return GpuFacts(
        gpus(*sizes),
        engine,
        engine_weights=int(weights / len(engine) * GIB),
        worker_weights=int(weights * GIB),
        worker_usual=int((weights + 8) * GIB),
        worker_least=int((weights + 2) * GIB),
        **more,
    )


def engine_bytes(plan: GpuPlan, gpu: Gpu, default: float = 0.92) -> float:
    return (default if plan.utilization is None else plan.utilization) * gpu.total


def test_on_one_gpu_the_engine_leaves_the_worker_its_usual_room() -> None:
    plan = plan_gpus(facts(80))
    (worker,) = plan.workers
    assert worker.names == ("0",)
    assert worker.limit == 22 * GIB + CONTEXT_BYTES
    assert engine_bytes(plan, gpus(80)[0]) == pytest.approx((0.92 * 80 - 22.625) * GIB, rel=1e-3)
    assert plan.warning is None
    assert plan.said == "GPU 0: of 80.0 GiB 51.0 GiB for the engine, 22.6 GiB kept for a training worker " + (
        "(TINYLORA_WORKER_GPU_GIB)"
    )


def test_without_workers_the_engine_has_what_vllm_gives_it() -> None:
    plan = plan_gpus(facts(80, 80, workers=0))
    assert (plan.utilization, plan.workers) == (None, ())
    assert "all for the engine" in plan.said
    # Also where a worker would not fit.
    assert plan_gpus(facts(16, workers=0)).workers == ()


def test_where_the_usual_does_not_fit_the_worker_has_what_does_and_that_is_said() -> None:
    plan = plan_gpus(facts(40))
    (worker,) = plan.workers
    assert 16 * GIB + CONTEXT_BYTES <= worker.limit < 22 * GIB
    left = engine_bytes(plan, gpus(40)[0]) - 14 * GIB - ENGINE_WORK_BYTES
    assert left == pytest.approx(MIN_KV_CACHE_BYTES, abs=0.01 * GIB)
    assert plan.warning is not None and "22.6 GiB would be usual" in plan.warning


def test_two_copies_that_do_not_fit_are_refused_with_the_sum_and_what_helps() -> None:
    with pytest.raises(CannotStart) as refused:
        plan_gpus(facts(24))
    # 24 - 0.08 * 24 - 14 - 1.5 - 1 - 16.625
    assert str(refused.value) == (
        "GPU 0 has 24.0 GiB (24.0 GiB free), too little for the engine and a training worker: the engine takes "
        "14.0 GiB of weights, 1.5 GiB to work, at least 1.0 GiB for its KV cache; a training worker 16.6 GiB (14.0 GiB "
        "of weights, 2.0 GiB for a short pass, 0.6 GiB for CUDA); 11.0 GiB are missing. What helps: "
        "TINYLORA_TRAINING_WORKERS=0 (and `tinylora worker` on another machine), another GPU, or a smaller model."
    )


def test_a_share_that_the_operator_names_is_kept() -> None:
    (worker,) = plan_gpus(facts(80, worker_share=30 * GIB)).workers
    assert worker.limit == 30 * GIB
    (beside,) = plan_gpus(facts(80, 80, worker_share=30 * GIB)).workers
    assert beside == WorkerGpus(("1",), 30 * GIB)
    with pytest.raises(
        CannotStart, match=r"engine .* 70\.0 GiB, as TINYLORA_WORKER_GPU_GIB says.* a smaller TINYLORA_"
    ):
        plan_gpus(facts(80, worker_share=70 * GIB))
    with pytest.raises(CannotStart, match=r"is 16\.25, and a training worker takes at least 16\.6 GiB"):
        plan_gpus(facts(80, worker_share=int(16.25 * GIB)))


def test_the_users_own_share_for_the_engine_is_kept_and_the_worker_takes_the_rest() -> None:
    plan = plan_gpus(facts(80, utilization=0.6, is_given=True))
    assert plan.utilization is None
    assert plan.workers[0].limit == 22 * GIB + CONTEXT_BYTES
    little = plan_gpus(facts(80, utilization=0.75, is_given=True))
    assert little.utilization is None
    assert little.workers[0].limit == pytest.approx(20 * GIB, abs=1)
    assert little.warning is not None and "20.0 GiB are left for training" in little.warning
    with pytest.raises(CannotStart, match=r"76\.0 GiB, as --gpu-memory-utilization says.*a smaller --gpu-memory-util"):
        plan_gpus(facts(80, utilization=0.95, is_given=True))


def test_the_users_own_kv_cache_is_kept() -> None:
    plan = plan_gpus(facts(80, kv_cache=10 * GIB, is_given=True))
    assert (plan.utilization, plan.workers[0].limit) == (None, 22 * GIB + CONTEXT_BYTES)
    assert "14.0 GiB of weights and 10.0 GiB of KV cache for the engine" in plan.said
    with pytest.raises(CannotStart, match=r"64\.0 GiB of weights and KV cache.*a smaller --kv-cache-memory-bytes"):
        plan_gpus(facts(80, kv_cache=50 * GIB, is_given=True))


def test_what_other_programs_hold_is_nobodys() -> None:
    busy = replace(facts(80), gpus=(Gpu("0", 80 * GIB, 60 * GIB),))
    plan = plan_gpus(busy)
    assert engine_bytes(plan, busy.gpus[0]) + 22.6 * GIB <= 60 * GIB
    # As vLLM asks at its start: what it takes must be free.
    with pytest.raises(CannotStart, match=r"30\.0 GiB free"):
        plan_gpus(replace(busy, gpus=(Gpu("0", 80 * GIB, 30 * GIB),)))


def test_a_gpu_that_the_engine_leaves_is_the_workers_and_all_of_it() -> None:
    plan = plan_gpus(facts(80, 40))
    assert plan.utilization is None
    assert plan.workers == (WorkerGpus(("1",), int(0.92 * 40 * GIB)),)
    assert plan.said == "GPU 0: all for the engine; GPU 1: 36.8 GiB for a training worker"


def test_the_freest_gpu_is_taken() -> None:
    assert plan_gpus(facts(80, 48, 80, 40)).workers[0].names == ("2",)
    crowded = replace(facts(80, 80, 48), gpus=(*gpus(80), Gpu("1", 80 * GIB, 5 * GIB), Gpu("2", 48 * GIB, 48 * GIB)))
    assert plan_gpus(crowded).workers[0].names == ("2",)


def test_a_gpu_that_is_too_small_is_left_and_the_engine_gives_way() -> None:
    plan = plan_gpus(facts(80, 8))
    assert plan.workers == (WorkerGpus(("0",), 22 * GIB + CONTEXT_BYTES),)
    assert plan.utilization is not None


def test_a_model_larger_than_a_gpu_is_spread_over_those_that_the_engine_leaves() -> None:
    plan = plan_gpus(facts(80, 80, 80, 80, 80, 80, weights=140, engine=(0, 1)))
    (worker,) = plan.workers
    assert worker.names == ("2", "3", "4", "5")
    assert 4 * worker.limit >= 148 * GIB + 4 * CONTEXT_BYTES
    assert plan.utilization is None


def test_a_worker_beside_an_engine_of_several_gpus_is_spread_over_them() -> None:
    plan = plan_gpus(facts(80, 80, 80, 80, weights=80, engine=(0, 1, 2, 3)))
    (worker,) = plan.workers
    assert worker.names == ("0", "1", "2", "3")
    assert 88 / 4 * GIB < worker.limit - CONTEXT_BYTES < 88 / 3 * GIB
    assert engine_bytes(plan, gpus(80)[0]) + worker.limit == pytest.approx(0.92 * 80 * GIB, rel=1e-3)
    assert "of each" in plan.said


def test_several_workers_are_told_apart() -> None:
    spread = plan_gpus(facts(80, 80, 80, workers=2))
    assert [worker.names for worker in spread.workers] == [("1",), ("2",)]
    together = plan_gpus(facts(80, 80, workers=2))
    assert [worker.names for worker in together.workers] == [("1",), ("1",)]
    assert sum(worker.limit for worker in together.workers) <= 0.92 * 80 * GIB
    one_each = plan_gpus(facts(80, 40, workers=2))
    assert [worker.names for worker in one_each.workers] == [("1",), ("0",)]
    with pytest.raises(CannotStart, match="fewer TINYLORA_TRAINING_WORKERS"):
        plan_gpus(facts(80, workers=4))


def test_of_unequal_gpus_each_has_room_for_the_engines_part() -> None:
    unequal = facts(8, 8, 8, 12, weights=3, engine=(0, 1, 2, 3))
    busy = replace(unequal, gpus=(*gpus(8, 8, 8), Gpu("3", 12 * GIB, 8 * GIB)))
    plan = plan_gpus(busy)
    assert plan.utilization is not None
    assert plan.utilization * 8 * GIB > busy.engine_weights + ENGINE_WORK_BYTES
    assert plan.utilization * 12 * GIB + plan.workers[0].limit <= 8 * GIB


sizes = st.lists(st.floats(8, 192), min_size=1, max_size=8)


@given(
    sizes=sizes,
    weights=st.floats(0.1, 200),
    workers=st.integers(0, 5),
    used=st.lists(st.floats(0, 0.9), min_size=8, max_size=8),
    first=st.integers(1, 8),
    share=st.none() | st.floats(1, 150),
)
def test_nobody_is_ever_promised_what_another_has(
    sizes: list[float], weights: float, workers: int, used: list[float], first: int, share: float | None
) -> None:
    busy = tuple(replace(gpu, free=int(gpu.total * (1 - part))) for gpu, part in zip(gpus(*sizes), used, strict=False))
    engine = tuple(range(min(first, len(busy))))
    asked = facts(*sizes, weights=weights, engine=engine, workers=workers)
    asked = replace(asked, gpus=busy, worker_share=None if share is None else int(share * GIB))
    try:
        plan = plan_gpus(asked)
    except CannotStart as refused:
        assert "TINYLORA_TRAINING_WORKERS=0" in str(refused)
        return
    assert len(plan.workers) == workers
    for place, gpu in enumerate(busy):
        kept = sum(worker.limit for worker in plan.workers if gpu.name in worker.names)
        if place in engine and kept:
            assert plan.utilization is not None
            assert plan.utilization * gpu.total >= asked.engine_weights + ENGINE_WORK_BYTES
            kept += plan.utilization * gpu.total
        assert kept <= 0.92 * gpu.total + 1 and kept <= gpu.free + 1
    for worker in plan.workers:
        assert len(worker.names) * (worker.limit - CONTEXT_BYTES) >= asked.worker_least - len(worker.names)
