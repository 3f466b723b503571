"""How many series vLLM's metrics have when every request brings an adapter: its own classes, without an engine."""

from __future__ import annotations

from collections.abc import Iterator

import prometheus_client
import pytest
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerManager
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import IterationStats, LoRARequestStates, SchedulerStats

from server.engine.metrics import stat_loggers
from tests.engine.reference import save_tiny_model

AT_ONCE = 4


@pytest.fixture(scope="module")
def vllm_config(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    model = save_tiny_model(tmp_path_factory.mktemp("model"), "llama")
    return AsyncEngineArgs(
        model=str(model), skip_tokenizer_init=True, enable_lora=True, max_lora_rank=8, max_loras=AT_ONCE
    ).create_engine_config()


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    yield
    unregister_vllm_metrics()


def run_adapters(manager: StatLoggerManager, names: list[str]) -> None:
    """What vLLM's output processor does: every step some other adapters run, and one waits."""
    states = LoRARequestStates(log_stats=True)
    for start in range(0, len(names), AT_ONCE):
        batch = names[start : start + AT_ONCE]
        for name in batch[:-1]:
            states.request_running(name, name)
        states.request_waiting(batch[-1], batch[-1])
        scheduled = SchedulerStats()
        states.update_scheduler_stats(scheduled)
        manager.record(scheduled, IterationStats())
        for name in batch:
            states.request_finished(name, name)


def metrics_lines() -> list[str]:
    return prometheus_client.generate_latest().decode().splitlines()


def names(count: int) -> list[str]:
    return [f"inline:{number:012x}" for number in range(count)]


def test_metrics_are_as_long_after_2000_adapters_as_after_10(vllm_config: VllmConfig) -> None:
    manager = StatLoggerManager(vllm_config, custom_stat_loggers=stat_loggers(disable_log_stats=False))
    run_adapters(manager, names(10))
    after_10 = metrics_lines()
    run_adapters(manager, names(2000))
    after_2000 = metrics_lines()
    assert len(after_2000) == len(after_10)
    assert not [line for line in after_2000 if "inline:" in line or "lora_requests_info" in line]
    # The others are there, and there once.
    assert sum(line.startswith("vllm:num_requests_running{") for line in after_2000) == 1


def test_vllms_own_grow_which_is_why_they_are_replaced(vllm_config: VllmConfig) -> None:
    """When this fails, vLLM has mended it, and `server.engine.metrics` may go."""
    manager = StatLoggerManager(vllm_config, custom_stat_loggers=[PrometheusStatLogger])
    run_adapters(manager, names(10))
    after_10 = len(metrics_lines())
    run_adapters(manager, names(200))
    assert len(metrics_lines()) > after_10 + 40


def test_statistics_that_are_switched_off_stay_off() -> None:
    assert stat_loggers(disable_log_stats=True) == []
