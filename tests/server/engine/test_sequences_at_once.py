"""How many sequences vLLM runs at once, by its own configuration."""

from __future__ import annotations

import pytest
from vllm.config import ParallelConfig, SchedulerConfig, VllmConfig

from server.engine.vllm import sequences_at_once


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({}, 32),
        ({"tensor_parallel_size": 2}, 32),
        ({"data_parallel_size": 8}, 256),
        ({"data_parallel_size": 8, "data_parallel_size_local": 0}, 256),  # all of them on other machines
        ({"data_parallel_size": 8, "data_parallel_size_local": 2, "data_parallel_hybrid_lb": True}, 64),
        ({"data_parallel_size": 8, "data_parallel_size_local": 1, "data_parallel_external_lb": True}, 32),
    ],
)
def test_every_rank_that_is_asked_from_here_counts(parallel: dict[str, int], expected: int) -> None:
    scheduler = SchedulerConfig(max_num_seqs=32, max_model_len=128, is_encoder_decoder=False)
    config = VllmConfig(scheduler_config=scheduler, parallel_config=ParallelConfig(**parallel))
    assert sequences_at_once(config) == expected
