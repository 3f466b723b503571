"""Where spans are sent: to the collector that vLLM's flag or OpenTelemetry's standard variables name, if any does.

    --otlp-traces-endpoint URL, else OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, else OTEL_EXPORTER_OTLP_ENDPOINT
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, else OTEL_EXPORTER_OTLP_PROTOCOL: grpc (the default) or http/protobuf
    OTEL_TRACES_EXPORTER=none or OTEL_SDK_DISABLED=true: nowhere

Gateway and engine send their spans to the same place. vLLM reads fewer variables than the SDK, so the decision made
here is written into those that vLLM reads.

The SDK itself reads the rest: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_... .
"""

from __future__ import annotations

import asyncio
import threading
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

OTEL_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER"
GRPC, HTTP = "grpc", "http/protobuf"
HTTP_PATH = "/v1/traces"
SHUTDOWN_S = 5.0


@dataclass(frozen=True, slots=True)
class TraceTarget:
    """A collector's address, whole, and the protocol it speaks."""

    url: str
    protocol: str

    def exporter(self) -> SpanExporter:
        """The SDK's exporter to this collector."""
        if self.protocol == HTTP:
            return HttpExporter(endpoint=self.url)
        # As vLLM does; a URL with https:// is encrypted nevertheless.
        return GrpcExporter(endpoint=self.url, insecure=True)


def trace_target(flag: str | None, environment: Mapping[str, str]) -> TraceTarget | None:
    """The collector, None when none is named. ValueError with a sentence for a protocol that is not supported,
    and for an address that is none."""
    disabled = environment.get(OTEL_SDK_DISABLED, "").lower() == "true"
    if disabled or environment.get(OTEL_TRACES_EXPORTER, "").lower() == "none":
        return None
    protocol = environment.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL) or environment.get(OTEL_EXPORTER_OTLP_PROTOCOL, GRPC)
    url = flag or environment.get(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
    if not url and environment.get(OTEL_EXPORTER_OTLP_ENDPOINT):
        # The collector's base address for traces, metrics and logs.
        url = environment[OTEL_EXPORTER_OTLP_ENDPOINT]
        if protocol == HTTP:
            url = url.rstrip("/") + HTTP_PATH
    if not url:
        return None
    if protocol not in (GRPC, HTTP):
        raise ValueError(f"{OTEL_EXPORTER_OTLP_TRACES_PROTOCOL} is {protocol!r}, expected {GRPC} or {HTTP}")
    if protocol == HTTP and not url.startswith(("http://", "https://")):
        raise ValueError(f"the collector of traces is {url!r}, expected http://... or https://... for {HTTP}")
    return TraceTarget(url, protocol)


def tell_vllm(target: TraceTarget | None, args: Namespace, environment: MutableMapping[str, str]) -> None:
    """Make vLLM's engine and its processes report to `target` too."""
    args.otlp_traces_endpoint = None if target is None else target.url
    if target is None:
        environment.pop(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, None)
    else:
        environment[OTEL_EXPORTER_OTLP_TRACES_ENDPOINT] = target.url
        environment[OTEL_EXPORTER_OTLP_TRACES_PROTOCOL] = target.protocol


def tracer_provider(target: TraceTarget) -> TracerProvider:
    """A provider that sends spans in batches from a thread; to be ended by `exporting`."""
    resource = Resource.create({"service.name": "tinylora"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(target.exporter()))
    return provider


@asynccontextmanager
async def exporting(provider: TracerProvider) -> AsyncIterator[None]:
    """When the block ends, sends what is left and shuts `provider` down, in `SHUTDOWN_S` at most.

    The SDK would wait half a minute for a collector that does not answer. No thread of a pool does it: those are waited
    for when the process ends.
    """
    try:
        yield
    finally:
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, SHUTDOWN_S)
