"""The gateway's own Prometheus metrics: uploads, resolves, requests and tokens by adapter.

Design decision: the first N registered adapters to be used get a label of their own and the others share "other", so
that the number of time series is bounded however many tenants there are. Requests without a registered adapter count
under "base", "inline" or "mix", which no adapter may be named.

Tokens are reported by the engine, which knows them for streamed and aborted requests too; responses are not parsed.
"""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, generate_latest

from server.engine_api import ServedAdapter

BASE_LABEL, INLINE_LABEL, MIX_LABEL, OTHER_LABEL = "base", "inline", "mix", "other"
SHARED_LABELS = frozenset({BASE_LABEL, INLINE_LABEL, MIX_LABEL, OTHER_LABEL})
UNKNOWN_LABEL = "unresolved"


class GatewayMetrics:
    """Counters of one app, in a registry of their own. Safe to use from any thread."""

    def __init__(self, registry: CollectorRegistry | None = None, *, max_adapters: int = 200) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.max_adapters = max_adapters
        self._labelled: set[str] = set()
        self._lock = threading.Lock()
        self._uploads = Counter(
            "tinylora_adapter_uploads", "Adapter uploads, by body format.", ("format", "result"), registry=self.registry
        )
        self._resolves = Counter(
            "tinylora_adapter_resolves",
            "Adapters looked up for requests.",
            ("source", "result"),
            registry=self.registry,
        )
        self._requests = Counter(
            "tinylora_requests", "Inference requests, by adapter.", ("adapter", "status"), registry=self.registry
        )
        self._prompt_tokens = Counter(
            "tinylora_prompt_tokens", "Prompt tokens, by adapter.", ("adapter",), registry=self.registry
        )
        self._completion_tokens = Counter(
            "tinylora_completion_tokens", "Generated tokens, by adapter.", ("adapter",), registry=self.registry
        )

    def observe_upload(self, body_format: str, *, stored: bool) -> None:
        """One upload; `body_format` is "vector", "json", "safetensors", "multipart" or "unknown"."""
        self._uploads.labels(body_format, "stored" if stored else "rejected").inc()

    def observe_resolve(self, source: str, result: str) -> None:
        """One look-up. `source`: "cache", "database", "inline" or "mix"; `result`: "ok", "not_found" or "invalid"."""
        self._resolves.labels(source, result).inc()

    def observe_request(self, served: ServedAdapter | None, status: int, *, resolved: bool = True) -> None:
        """One inference request that was answered with HTTP `status`; not `resolved`: it ended at its adapter."""
        label = self.label(served) if resolved else UNKNOWN_LABEL
        self._requests.labels(label, f"{status // 100}xx").inc()

    def observe_tokens(self, served: ServedAdapter | None, prompt_tokens: int, completion_tokens: int) -> None:
        """The tokens of one request, answered or left by its client; `served` is None when it ran on the base model."""
        label = self.label(served)
        self._prompt_tokens.labels(label).inc(prompt_tokens)
        self._completion_tokens.labels(label).inc(completion_tokens)

    def label(self, served: ServedAdapter | None) -> str:
        """The value of the label `adapter` for a request with `served`."""
        name = BASE_LABEL if served is None else served.label
        if name in SHARED_LABELS or name in self._labelled:
            return name
        with self._lock:
            if len(self._labelled) >= self.max_adapters:
                return OTHER_LABEL
            self._labelled.add(name)
        return name

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
