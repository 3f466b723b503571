"""The gateway's own Prometheus metrics: uploads, look-ups, and requests and tokens by adapter and by tenant.

The number of time series is bounded however many adapters and tenants there are: the most used ones have a label of
their own (top_counters.py, which also explains "other" and "former"). Requests without a registered adapter count under
"base", "inline" or "mix", which no adapter may be named.

Tokens are those that the engine reports, which has them for streamed and aborted requests too.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.core.names import BASE_LABEL, FORMER, OTHER, SHARED_LABELS, UNRESOLVED_LABEL
from server.core.principal import Tenant
from server.core.request_state import RequestUsage
from server.engine.protocol import ServedAdapter
from server.observability.genai import GenAiMetrics
from server.observability.http_metrics import status_class
from server.observability.top_counters import TopCounters

RESOLVE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1)
HTTP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
UPLOAD_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)


class GatewayMetrics:
    """The metrics of one app, in a registry of their own. Safe to use from any thread.

    `upload_seconds` and `resolve_seconds` are histograms, for `with metrics.upload_seconds.time():`.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, max_adapters: int = 200, max_tenants: int = 50
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._uploads = Counter(
            "tinylora_adapter_uploads", "Adapter uploads, by body format.", ("format", "result"), registry=self.registry
        )
        self._resolves = Counter(
            "tinylora_adapter_resolves",
            "Adapters looked up for requests.",
            ("source", "result"),
            registry=self.registry,
        )
        self.upload_seconds = Histogram(
            "tinylora_adapter_upload_duration_seconds",
            "How long uploads took, from the first byte of the body to the answer.",
            buckets=UPLOAD_BUCKETS_S,
            registry=self.registry,
        )
        self.resolve_seconds = Histogram(
            "tinylora_adapter_resolve_duration_seconds",
            "How long it took to find the adapter of a request, or that it has none.",
            buckets=RESOLVE_BUCKETS_S,
            registry=self.registry,
        )
        self.http_seconds = Histogram(
            "tinylora_http_request_duration_seconds",
            "How long HTTP requests took, to the last byte of the answer.",
            ("method", "route", "status"),
            buckets=HTTP_BUCKETS_S,
            registry=self.registry,
        )
        self.usage_flush_failures = Counter(
            "tinylora_usage_flush_failures",
            "Times that usage could not be written to the database; it is tried again.",
            registry=self.registry,
        )
        self.quota_fallbacks = Counter(
            "tinylora_quota_fallbacks",
            "Requests admitted or refused by this gateway's own count, because Redis did not answer.",
            registry=self.registry,
        )
        self.genai = GenAiMetrics(self.registry)
        self._by_adapter = TopCounters(self.registry, "adapter", max_adapters, always=SHARED_LABELS - {OTHER, FORMER})
        self._requests = self._by_adapter.counter("tinylora_requests", "Inference requests, by adapter.", "status")
        self._prompt_tokens = self._by_adapter.counter("tinylora_prompt_tokens", "Prompt tokens, by adapter.")
        self._completion_tokens = self._by_adapter.counter(
            "tinylora_completion_tokens", "Generated tokens, by adapter."
        )
        self._by_tenant = TopCounters(self.registry, "tenant", max_tenants)
        self._tenant_requests = self._by_tenant.counter(
            "tinylora_tenant_requests", "Inference requests, by tenant.", "status"
        )
        self._tenant_prompt_tokens = self._by_tenant.counter(
            "tinylora_tenant_prompt_tokens", "Prompt tokens, by tenant."
        )
        self._tenant_completion_tokens = self._by_tenant.counter(
            "tinylora_tenant_completion_tokens", "Generated tokens, by tenant."
        )

    def observe_upload(self, body_format: str, *, stored: bool) -> None:
        """One upload; `body_format` is "vector", "json", "safetensors", "multipart" or "unknown"."""
        self._uploads.labels(body_format, "stored" if stored else "rejected").inc()

    def observe_resolve(self, source: str, result: str) -> None:
        """One look-up. `source`: "cache", "database", "inline" or "mix"; `result`: "ok", "not_found" or "invalid"."""
        self._resolves.labels(source, result).inc()

    def observe_request(self, tenant: Tenant, served: ServedAdapter | None, status: int, usage: RequestUsage) -> None:
        """One inference request that was answered with HTTP `status`, LEFT by its client included, and what it used."""
        self._observe(tenant, BASE_LABEL if served is None else served.label, status, usage)

    def observe_unresolved(self, tenant: Tenant, status: int) -> None:
        """One inference request that was refused before it had an adapter."""
        self._observe(tenant, UNRESOLVED_LABEL, status, RequestUsage())

    def _observe(self, tenant: Tenant, adapter: str, status: int, usage: RequestUsage) -> None:
        label = status_class(status)
        self._by_adapter.count(
            adapter,
            (self._requests, (label,), 1),
            (self._prompt_tokens, (), usage.prompt_tokens),
            (self._completion_tokens, (), usage.completion_tokens),
        )
        self._by_tenant.count(
            tenant.name,
            (self._tenant_requests, (label,), 1),
            (self._tenant_prompt_tokens, (), usage.prompt_tokens),
            (self._tenant_completion_tokens, (), usage.completion_tokens),
        )

    def watch_engine(self, silent_s: Callable[[], float]) -> None:
        """Ask `silent_s` for the engine's silence (engine/progress.py) when the metrics are read. Call once."""
        Gauge(
            "tinylora_engine_silent_seconds",
            "Seconds for which requests have waited for an engine that gave nothing.",
            registry=self.registry,
        ).set_function(silent_s)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
