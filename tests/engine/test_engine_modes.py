"""The same answers compiled, sharded, preempted, from a graph that was compiled before, and in other model families."""

import pytest

from tests.engine.conftest import ADAPTERS, Tiny, TinyModels
from tests.engine.running import RunningEngine
from tests.engine.test_answers import assert_is_adapters_answer, job, prompt_of

pytestmark = pytest.mark.engine


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two ranks on any machine: vLLM would want a NUMA node for each, and each would take every core."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def assert_answers_are_right(tiny: Tiny, running: RunningEngine, longer_by: int = 1) -> None:
    """Of 36 requests at once, whose prompts have 3 tokens, and each `longer_by` more than the one before."""
    adapters = [None if i % 9 == 8 else i % ADAPTERS for i in range(36)]
    jobs = [job(tiny.reference, prompt_of(3 + longer_by * i, i), adapter) for i, adapter in enumerate(adapters)]
    for answer, adapter in zip(running.all(jobs), adapters, strict=True):
        assert_is_adapters_answer(tiny.reference, answer, adapter)


@pytest.mark.timeout(900)
def test_compiled_twice_and_with_other_factors(
    tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start loads the graph of the first; a third, with other factors, must not be misled by it."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path_factory.mktemp("compiled")))
    qwen3 = tiny_models.get("qwen3")
    from adapters.factors.build import build_factors
    from tests.engine.reference import PeftReference

    for start in ("first", "second"):
        if start == "second":
            monkeypatch.setenv("VLLM_FORCE_AOT_LOAD", "1")  # fails rather than compile again
        running = qwen3.engine(enforce_eager=False)
        try:
            assert_answers_are_right(qwen3, running)
        except AssertionError as error:
            raise AssertionError(f"wrong answers at the {start} start") from error
        finally:
            running.close()
    monkeypatch.delenv("VLLM_FORCE_AOT_LOAD")
    rank_3 = build_factors(qwen3.path, rank=3, progress=False)
    other = Tiny(qwen3.path, rank_3, PeftReference(qwen3.path, rank_3, ADAPTERS))
    running = other.engine(enforce_eager=False)
    try:
        assert_answers_are_right(other, running)
    finally:
        running.close()


@pytest.mark.parametrize("delta", ["matmul", "rows", "columns"])
def test_every_way_to_compute_the_delta(llama: Tiny, delta: str) -> None:
    """Without compilation; the kernel is tested in Triton's interpreter, and what is compiled with `auto`."""
    running = llama.engine(delta=delta)
    try:
        assert_answers_are_right(llama, running)
    finally:
        running.close()


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize("delta", ["auto", "matmul", "rows", "columns"])
def test_two_tensor_parallel_ranks(delta: str, tiny_models: TinyModels) -> None:
    qwen2 = tiny_models.get("qwen2")
    running = qwen2.engine(delta=delta, tensor_parallel_size=2)
    try:
        assert_answers_are_right(qwen2, running)
    finally:
        running.close()


@pytest.mark.usefixtures("two_ranks")
def test_two_pipeline_parallel_ranks(llama: Tiny) -> None:
    """A layer on each. Two batches are in flight at a time, often with two chunks of one prompt."""
    running = llama.engine(pipeline_parallel_size=2, max_num_batched_tokens=64)
    try:
        assert running.llm.vllm_config.parallel_config.world_size == 2
        assert_answers_are_right(llama, running, longer_by=3)
    finally:
        running.close()


def test_preempted_requests_come_back_with_their_adapter(llama: Tiny) -> None:
    """Room for a quarter of the batch: the scheduler must preempt and recompute."""
    running = llama.engine(num_gpu_blocks_override=16, disable_log_stats=False)
    try:
        jobs = [job(llama.reference, prompt_of(30, i), i % ADAPTERS, tokens=40) for i in range(16)]
        for i, answer in enumerate(running.all(jobs)):
            assert_is_adapters_answer(llama.reference, answer, i % ADAPTERS)
        assert preemptions() > 0, "nothing was preempted, so this test shows nothing"
    finally:
        running.close()


def preemptions() -> float:
    from prometheus_client import REGISTRY

    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "vllm:num_preemptions_total"
    )
