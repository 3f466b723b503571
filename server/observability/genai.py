"""OpenTelemetry's conventions for generative AI: attributes of a trace's stage `engine`, and metrics of a server.

Metrics are the three that they have for servers, under the names that OpenTelemetry's exporter for Prometheus gives
them, with the buckets that they name:

    gen_ai_server_request_duration_seconds          to the last byte of the answer
    gen_ai_server_time_to_first_token_seconds       of requests that generated one, waiting included
    gen_ai_server_time_per_output_token_seconds     of those after the first, of requests that succeeded

They name the base model only: adapters have metrics of their own, with bounded labels (metrics.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv._incubating.attributes.openai_attributes import OPENAI_RESPONSE_SERVICE_TIER
from prometheus_client import CollectorRegistry, Histogram

from server.core.genai_call import GenAiCall
from server.core.request_state import RequestState, RequestUsage

PROVIDER = "vllm"
Attribute = str | int | float | bool | tuple[str, ...]

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
OUTPUT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


def attributes_of(call: GenAiCall) -> dict[str, Attribute]:
    """What is known before it runs."""
    return dict(_attributes_of(call))


def usage_attributes(usage: RequestUsage) -> Mapping[str, int]:
    """What is known when it has ended."""
    return {
        names.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
        names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
    }


class GenAiMetrics:
    """The three histograms."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Generative AI server request duration.",
            (*LABELS, "error_type"),
            buckets=SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time to generate the first token.",
            LABELS,
            buckets=FIRST_TOKEN,
            registry=registry,
        )
        self._output_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per output token after the first one, of successful responses.",
            LABELS,
            buckets=OUTPUT_TOKEN,
            registry=registry,
        )

    def observe(self, call: GenAiCall, base_model: str, status: int, state: RequestState, usage: RequestUsage) -> None:
        """A request that has ended, with HTTP `status`."""
        if call.operation is None:
            return
        labels = (call.operation, PROVIDER, base_model)
        self._seconds.labels(*labels, "" if status < 400 else str(status)).observe(state.seconds)
        if usage.first_token_at is None:
            return
        self._first_token.labels(*labels).observe(usage.first_token_at - state.began)
        if status < 400 and usage.completion_tokens > 1:
            rest_s = state.began + state.seconds - usage.first_token_at
            self._output_token.labels(*labels).observe(rest_s / (usage.completion_tokens - 1))


def _attributes_of(call: GenAiCall) -> Iterator[tuple[str, Attribute]]:
    if call.operation is not None:
        yield names.GEN_AI_OPERATION_NAME, call.operation
    yield names.GEN_AI_PROVIDER_NAME, PROVIDER
    yield names.GEN_AI_REQUEST_MODEL, call.request_model
    yield names.GEN_AI_RESPONSE_MODEL, call.response_model
    for name, value in call.numbers.items():
        # The conventions have floats for all but these.
        whole = name in ("max_tokens", "seed", "top_k")
        yield f"gen_ai.request.{name}", value if whole else float(value)
    if call.stream:
        yield names.GEN_AI_REQUEST_STREAM, True
    if call.choices != 1:
        yield names.GEN_AI_REQUEST_CHOICE_COUNT, call.choices
    if call.stops:
        yield names.GEN_AI_REQUEST_STOP_SEQUENCES, call.stops
    if call.as_json:
        yield names.GEN_AI_OUTPUT_TYPE, "json"
    if call.tier is not None:
        yield OPENAI_RESPONSE_SERVICE_TIER, call.tier
