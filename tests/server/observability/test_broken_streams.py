"""A stream that ends in an error began with status 200: metrics, traces and logs know of its end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.observability.test_metrics import samples
from tests.server.support.fake_engine import FakeEngine

FIRST = 'data: {"choices": []}\n\n'
FAILED = 'data: {"error": {"message": "the engine is dead", "type": "InternalServerError", "code": 500}}\n\n'
REFUSED = 'data: {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}\n\n'
OF_ANTHROPIC = 'event: error\ndata: {"type": "error", "error": {"type": "internal_error", "message": "dead"}}\n\n'
OF_RESPONSES = 'event: response.failed\ndata: {"type": "response.failed"}\n\n'
LATE = OF_ANTHROPIC.replace("internal_error", "invalid_request_error")
CANCELLED = 'event: response.failed\ndata: {"type": "response.failed", "response": {"status": "cancelled"}}\n\n'
TOO_LONG = CANCELLED.replace(
    '"cancelled"', '"failed", "error": {"code": "context_length_exceeded", "message": "too long"}'
)
DELETED = (
    'event: error\ndata: {"type": "error", "sequence_number": 3, "code": "response_not_found", "message": "gone"}\n\n'
)
# What a user may have a model say.
QUOTED = f"data: {json.dumps({'choices': [{'delta': {'content': FAILED}}]})}\n\n"


class StreamingEngine(FakeEngine):
    """Streams `pieces`; a piece that is empty raises."""

    pieces: tuple[str, ...] = ()

    def mount(self, app: FastAPI) -> None:
        super().mount(app)
        app.add_api_route("/v1/pieces", self._pieces, methods=["POST"])

    async def _pieces(self) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            for piece in self.pieces:
                if not piece:
                    raise RuntimeError("the engine is dead")
                yield piece

        return StreamingResponse(stream(), media_type="text/event-stream")


@pytest.mark.parametrize(
    ("pieces", "broke_off"),
    [
        ((FIRST, FAILED, "data: [DONE]\n\n"), True),
        ((FIRST, OF_ANTHROPIC), True),
        ((FIRST, OF_RESPONSES), True),
        ((FIRST, ""), True),
        ((FIRST, OF_RESPONSES.replace("}", ', "response": {"status": "failed"}}')), True),
        ((FIRST, REFUSED), False),
        ((FIRST, LATE), False),
        ((FIRST, CANCELLED), False),
        ((FIRST, TOO_LONG), False),
        ((FIRST, DELETED), False),
        ((FIRST, QUOTED, "data: [DONE]\n\n"), False),
    ],
)
async def test_a_stream_that_the_server_breaks_off_is_its_failure(
    settings: Settings,
    engine: FakeEngine,
    app_database: Database,
    capsys: pytest.CaptureFixture[str],
    pieces: tuple[str, ...],
    broke_off: bool,
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    streaming = StreamingEngine(engine.factors)
    streaming.pieces = pieces
    async with client_of(create_app(settings, streaming, app_database, tracing=provider)) as client:
        try:
            answer = await client.post("/v1/pieces", json={})
            assert answer.status_code == 200
        except (httpx.HTTPError, RuntimeError):
            assert "" in pieces
        text = (await client.get("/metrics")).text
    counted = {
        dict(labels)["status"]
        for (name, labels), _ in samples(text).items()
        if name in ("tinylora_http_request_duration_seconds_count", "tinylora_requests_total")
        and dict(labels).get("route", "/v1/pieces") == "/v1/pieces"
    }
    assert counted == {"5xx" if broke_off else "2xx"}
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "POST /v1/pieces"]
    assert span.status.status_code == (StatusCode.ERROR if broke_off else StatusCode.UNSET)
    (line,) = [one for one in map(json.loads, capsys.readouterr().out.splitlines()) if one["event"] == "request"]
    assert (line["status"], line.get("broke_off", False)) == (200, broke_off)
