"""Prometheus metrics of admission: requests that wait, run and are refused.

Whoever adds gateways or is woken goes by requests that somebody waits for. Batches and less urgent requests (a job's
rollouts, flex) are made to wait, so they are counted apart: as classes of one histogram, which is read by its labels,
and with gauges of their own, which autoscalers and endpoint pickers read without any.

The label of a tenant comes from a function that returns few different names, so that the number of time series is
bounded however many tenants there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.core.principal import Tenant

WAIT_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)
EVERYONE = "all"

Class = Literal["request", "less_urgent", "batch"]


def unlabelled(_tenant: Tenant) -> str:
    """One label for all tenants."""
    return EVERYONE


class AdmissionMetrics:
    """The numbers are asked for when metrics are read.

    `waiting` and `running_requests` leave out batches and less urgent requests, of which `less_urgent_waiting` wait.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        waiting: Callable[[], int],
        less_urgent_waiting: Callable[[], int],
        running: Callable[[], int],
        running_requests: Callable[[], int],
        label: Callable[[Tenant], str] = unlabelled,
    ) -> None:
        self._label = label
        for name, text, number in (
            ("waiting_requests", "Requests waiting for the engine, less urgent ones and batches left out.", waiting),
            (
                "waiting_less_urgent_requests",
                "Requests of a priority above 0 (rollouts of training, flex) waiting for the engine.",
                less_urgent_waiting,
            ),
            ("running_sequences", "Sequences in the engine, by slots.", running),
            (
                "running_request_sequences",
                "Those of them that are neither of a batch nor less urgent.",
                running_requests,
            ),
        ):
            Gauge(f"tinylora_{name}", text, registry=registry).set_function(number)
        self._wait = Histogram(
            "tinylora_wait_seconds",
            "How long requests waited for the engine, by class: request, less_urgent (a priority above 0), batch.",
            ("class", "tenant"),
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._rejected = Counter(
            "tinylora_rejected_requests", "Requests refused with 429.", ("reason", "tenant"), registry=registry
        )

    def observe_wait(self, tenant: Tenant, which: Class, seconds: float) -> None:
        """A request of that class went into the engine after so long."""
        self._wait.labels(which, self._label(tenant)).observe(seconds)

    def observe_rejected(self, tenant: Tenant, reason: str) -> None:
        """`reason`: "requests_per_minute", "tokens_per_minute", "tokens_per_month", "concurrent_requests",
        "never_fits", "queue_full", "less_urgent_queue_full" or "grammars"."""
        self._rejected.labels(reason, self._label(tenant)).inc()
