"""vLLM's own Prometheus metrics, without the one that names adapters.

`vllm:lora_requests_info` has a series for every combination of adapters that ever ran at once; with a different adapter
in every request that is a new series per step, for ever. Design decision: it is removed where vLLM records it;
filtering the text of /metrics would leave the memory and the time to write all series. The gateway's own metrics say
which adapters are used, with a bounded number of labels.
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
