"""Traces, as OpenTelemetry's own SDK collects them on the fake engine, and where they are sent."""

from __future__ import annotations

import asyncio
import threading
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import FastAPI, Request
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.observability.trace_export import SHUTDOWN_S, TraceTarget, exporting, tell_vllm, trace_target
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
COLLECTOR = "http://collector:4317"


class HeadersEngine(FakeEngine):
    """Keeps the headers of its last request."""

    def mount(self, app: FastAPI) -> None:
        super().mount(app)
        app.add_api_route("/v1/headers", self._headers, methods=["POST"])

    async def _headers(self, request: Request) -> dict[str, str]:
        return {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}


@pytest.fixture
def engine(engine: FakeEngine) -> FakeEngine:
    return HeadersEngine(engine.factors)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, app_database: Database, exporter: InMemorySpanExporter) -> FastAPI:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return create_app(settings, engine, app_database, tracing=provider)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert len(spans) == len(exporter.get_finished_spans())
    return spans


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def parent_id(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


async def test_an_inference_request_is_a_span_with_its_stages_in_it(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await client.post("/adapters", json={"name": "math", "vector": [0.5] * 13})
    exporter.clear()
    await client.post(CHAT, json={"messages": [], "adapter": "math"}, headers={"x-request-id": "r-1"})
    spans = by_name(exporter)
    assert set(spans) == {f"POST {CHAT}", "resolve", "admission", "engine"}
    whole = spans[f"POST {CHAT}"]
    assert (whole.kind, whole.parent, whole.status.status_code) == (SpanKind.SERVER, None, StatusCode.UNSET)
    assert whole.attributes is not None and {
        "http.request.method": "POST", "http.route": CHAT, "url.path": CHAT, "url.scheme": "http",
        "http.response.status_code": 200, "tinylora.tenant": "default", "tinylora.adapter": "math@1",
        "tinylora.request_id": "r-1",
    }.items() <= whole.attributes.items()  # fmt: skip
    stages = [spans[name] for name in ("resolve", "admission", "engine")]
    for stage in stages:
        assert parent_id(stage) == ids(whole)[1] and ids(stage)[0] == ids(whole)[0]
    times = [time for stage in stages for time in (stage.start_time, stage.end_time)]
    assert times[0] == whole.start_time and times == sorted(times)  # type: ignore[type-var]
    assert times[1] == times[2] and times[3] == times[4]
    used = {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 2}
    assert used.items() <= dict(stages[2].attributes or {}).items()


async def test_the_clients_trace_goes_on_and_the_engine_gets_the_engines_span(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    sent = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=1"}
    got = (await client.post("/v1/headers", json={}, headers=sent)).json()
    spans = by_name(exporter)
    assert parent_id(spans["POST /v1/headers"]) == SPAN_ID
    assert got == {"traceparent": f"00-{TRACE_ID}-{ids(spans['engine'])[1]}-01", "tracestate": "vendor=1"}


async def test_a_tracestate_of_several_lines_is_handed_on_whole(client: httpx.AsyncClient) -> None:
    sent = [("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01"), ("tracestate", "a=1"), ("tracestate", "b=2")]
    got = (await client.post("/v1/headers", json={}, headers=sent)).json()
    assert got["tracestate"] == "a=1,b=2"


async def test_a_trace_that_the_client_does_not_record_is_not_recorded_here(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    got = (await client.post("/v1/headers", json={}, headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"})).json()
    assert got["traceparent"].startswith(f"00-{TRACE_ID}-") and got["traceparent"].endswith("-00")
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("traceparent", ["", "00-zz", f"00-{'0' * 32}-{SPAN_ID}-01", "ÿ"])
async def test_a_broken_traceparent_begins_a_trace_of_its_own(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter, traceparent: str
) -> None:
    headers = {"traceparent": traceparent.encode("latin-1")}
    got = (await client.post("/v1/headers", json={}, headers=headers)).json()
    assert by_name(exporter)["POST /v1/headers"].parent is None
    assert got["traceparent"].split("-")[1:3] == list(ids(by_name(exporter)["engine"]))


async def test_streams_are_traced_to_their_last_byte(
    client: httpx.AsyncClient, engine: FakeEngine, exporter: InMemorySpanExporter
) -> None:
    engine.hold = asyncio.Event()
    running = asyncio.create_task(client.post(CHAT, json={"messages": [], "stream": True}))
    while not exporter.get_finished_spans():
        await asyncio.sleep(0.01)
    assert set(by_name(exporter)) == {"resolve", "admission"}
    engine.hold.set()
    await running
    assert set(by_name(exporter)) == {"resolve", "admission", "engine", f"POST {CHAT}"}


async def test_concurrent_requests_do_not_mix_their_spans(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await asyncio.gather(*(client.post(CHAT, json={"messages": []}) for _ in range(8)))
    spans = exporter.get_finished_spans()
    traces = {ids(span)[0] for span in spans}
    assert len(traces) == 8
    for trace in traces:
        of_it = {span.name: span for span in spans if ids(span)[0] == trace}
        assert len(of_it) == 4
        assert {parent_id(span) for span in of_it.values()} == {None, ids(of_it[f"POST {CHAT}"])[1]}


@pytest.mark.parametrize(
    ("method", "path", "body", "name", "status", "error"),
    [
        ("GET", "/adapters/none", None, "GET /v1/adapters/{name:path}", 404, None),
        ("GET", "/nowhere", None, "GET", 404, None),
        ("BREW", "/nowhere", None, "HTTP", 404, None),
        ("BREW", "/v1/adapters", None, "HTTP /v1/adapters", 405, None),
        ("POST", CHAT, {"adapter": "none"}, "POST", 404, None),
        ("POST", "/v1/fail/defect", {}, "POST /v1/fail/{kind}", 500, "500"),
    ],
)
async def test_failures_are_errors_when_they_are_the_servers(
    client: httpx.AsyncClient,
    exporter: InMemorySpanExporter,
    method: str,
    path: str,
    body: dict[str, object] | None,
    name: str,
    status: int,
    error: str | None,
) -> None:
    await client.request(method, path, json=body)
    span = by_name(exporter)[name]
    assert span.attributes is not None
    assert (span.attributes["http.response.status_code"], span.attributes.get("error.type")) == (status, error)
    assert span.status.status_code == (StatusCode.ERROR if error else StatusCode.UNSET)


async def test_probes_are_not_traced(client: httpx.AsyncClient, exporter: InMemorySpanExporter) -> None:
    for path in ("/health", "/ready", "/metrics"):
        await client.get(path)
    assert exporter.get_finished_spans() == ()


async def test_the_end_of_the_app_sends_what_is_left(
    settings: Settings, engine: FakeEngine, app_database: Database, exporter: InMemorySpanExporter
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    app = create_app(settings, engine, app_database, tracing=provider)
    async with LifespanManager(app), client_of(app) as client:
        await client.get("/adapters")
        assert exporter.get_finished_spans() == ()
    assert set(by_name(exporter)) == {"GET /v1/adapters"}


class SilentExporter(InMemorySpanExporter):
    """A collector that takes spans and does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answers.wait()
        return SpanExportResult.SUCCESS


async def test_a_collector_that_does_not_answer_does_not_hold_up_the_end() -> None:
    silent, provider = SilentExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(silent))
    async with asyncio.timeout(SHUTDOWN_S + 15), exporting(provider):
        provider.get_tracer("test").start_span("one").end()
    silent.answers.set()


async def test_without_a_collector_headers_pass_as_they_came(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    sent = {"traceparent": "anything"}
    async with client_of(create_app(settings, engine, app_database)) as client:
        assert (await client.post("/v1/headers", json={}, headers=sent)).json() == sent


@pytest.mark.parametrize(
    ("flag", "environment", "target"),
    [
        (None, {}, None),
        (COLLECTOR, {}, TraceTarget(COLLECTOR, "grpc")),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, TraceTarget(COLLECTOR, "grpc")),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{COLLECTOR}/", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            TraceTarget(f"{COLLECTOR}/v1/traces", "http/protobuf"),
        ),
        (
            None,
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here/t",
                "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR,
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            TraceTarget("http://here/t", "http/protobuf"),
        ),
        ("http://flag", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": COLLECTOR}, TraceTarget("http://flag", "grpc")),
        (COLLECTOR, {"OTEL_SDK_DISABLED": "true"}, None),
        (COLLECTOR, {"OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_flag_and_the_standard_variables_say_where_spans_go(
    flag: str | None, environment: Mapping[str, str], target: TraceTarget | None
) -> None:
    assert trace_target(flag, environment) == target
    args, told = Namespace(otlp_traces_endpoint=flag), dict(environment)
    tell_vllm(target, args, told)
    assert args.otlp_traces_endpoint == (target and target.url)
    assert told.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == (target and target.url)
    if target is not None:
        assert told["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == target.protocol


def test_a_protocol_that_is_not_spoken_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="'http/json', expected grpc or http/protobuf"):
        trace_target(COLLECTOR, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_an_address_without_a_scheme_is_refused_where_it_cannot_work() -> None:
    with pytest.raises(ValueError, match="'collector:4318', expected http://"):
        trace_target("collector:4318", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
    assert trace_target("collector:4317", {}) == TraceTarget("collector:4317", "grpc")


def test_the_exporter_is_that_of_the_protocol() -> None:
    for protocol, kind in (("grpc", GrpcExporter), ("http/protobuf", HttpExporter)):
        exporter = TraceTarget(COLLECTOR, protocol).exporter()
        assert isinstance(exporter, kind)
        exporter.shutdown()


async def test_the_engines_stage_has_the_attributes_of_generative_ai(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    body = {
        "messages": [],
        "model": "base-alias",
        "max_tokens": 7,
        "temperature": 1,
        "seed": 3,
        "stop": ["a", "b"],
        "n": 2,
        "service_tier": "flex",
        "response_format": {"type": "json_object"},
    }
    await client.post(CHAT, json=body)
    attributes = by_name(exporter)["engine"].attributes
    assert attributes is not None
    assert dict(attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "base-alias",
        "gen_ai.response.model": "acme/base-135m",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.seed": 3,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ("a", "b"),
        "gen_ai.output.type": "json",
        "openai.response.service_tier": "flex",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }


@pytest.mark.parametrize(
    "fields",
    [{"max_tokens": "7"}, {"temperature": True}, {"top_k": "5"}, {"stop": {"a": 1}}, {"n": "2"}, {"model": 5}],
)
async def test_values_of_a_wrong_type_are_no_attributes(
    client: httpx.AsyncClient, exporter: InMemorySpanExporter, fields: dict[str, object]
) -> None:
    await client.post("/v1/completions", json={"prompt": "x", **fields})
    attributes = by_name(exporter)["engine"].attributes
    assert attributes is not None
    asked = {name for name in attributes if name.startswith("gen_ai.request.")}
    assert asked == {"gen_ai.request.model"}
