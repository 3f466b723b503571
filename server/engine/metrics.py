"""vLLM's own Prometheus metrics, without the one that names adapters.

Design decision: `vllm:lora_requests_info` has a series for every combination of adapters that ever ran at once, which
never goes away; with an adapter of its own in every request that is a series per step. It is taken out where vLLM
records it, so that neither /metrics nor memory grows; filtering the text of /metrics would leave both the memory and
the time that it takes to write all series out. What adapters are used is in the gateway's own metrics, bounded.
"""

from __future__ import annotations

from typing import Any

import prometheus_client
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerFactory


class AdapterlessStatLogger(PrometheusStatLogger):
    """vLLM's statistics of an engine, as it records them but for what says which adapters ran."""

    gauge_lora_info: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gauge, self.gauge_lora_info = self.gauge_lora_info, None
        if gauge is not None:
            prometheus_client.REGISTRY.unregister(gauge)


def stat_loggers(*, disable_log_stats: bool) -> list[StatLoggerFactory]:
    """For `AsyncLLM.from_vllm_config`: vLLM replaces its own by this one. None where statistics are switched off."""
    # Any logger that is handed over would switch them on again.
    return [] if disable_log_stats else [AdapterlessStatLogger]
