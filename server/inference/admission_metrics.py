"""Prometheus metrics of admission: requests that wait, run and are refused.

The label of a tenant comes from a function that returns few different names, so that the number of time series is
bounded however many tenants there are.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.core.principal import Tenant

WAIT_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)
EVERYONE = "all"


def unlabelled(_tenant: Tenant) -> str:
    """One label for all tenants."""
    return EVERYONE


class AdmissionMetrics:
    """`waiting`, `running` and, of that, `running_requests`, batches left out, are asked for when metrics are read."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        waiting: Callable[[], int],
        running: Callable[[], int],
        running_requests: Callable[[], int],
        label: Callable[[Tenant], str] = unlabelled,
    ) -> None:
        self._label = label
        Gauge("tinylora_waiting_requests", "Requests waiting for the engine.", registry=registry).set_function(waiting)
        Gauge("tinylora_running_sequences", "Sequences in the engine, by slots.", registry=registry).set_function(
            running
        )
        Gauge(
            "tinylora_running_request_sequences", "Those of them that are of no batch.", registry=registry
        ).set_function(running_requests)
        self._wait = Histogram(
            "tinylora_wait_seconds",
            "How long requests waited for the engine.",
            ("tenant",),
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._rejected = Counter(
            "tinylora_rejected_requests", "Requests refused with 429.", ("reason", "tenant"), registry=registry
        )

    def observe_wait(self, tenant: Tenant, seconds: float) -> None:
        """A request went into the engine after so long."""
        self._wait.labels(self._label(tenant)).observe(seconds)

    def observe_rejected(self, tenant: Tenant, reason: str) -> None:
        """`reason`: "requests_per_minute", "tokens_per_minute", "tokens_per_month", "concurrent_requests",
        "never_fits", "queue_full" or "grammars"."""
        self._rejected.labels(reason, self._label(tenant)).inc()
