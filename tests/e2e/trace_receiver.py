"""A collector of traces: OTLP over HTTP, as OpenTelemetry's protocol definitions read it, in a thread of the tests."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 30


class TraceReceiver:
    """Keeps every span that it was sent. `url` is the collector's, without a path."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    def add(self, body: bytes) -> None:
        """An ExportTraceServiceRequest."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self._spans += [
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            ]

    def of_trace(self, trace_id: str, *names: str) -> dict[str, Span]:
        """The spans of a trace by their names, as soon as `names` are among them."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._lock:
                found = {span.name: span for span in self._spans if span.trace_id.hex() == trace_id}
            if found.keys() >= set(names):
                return found
            assert time.monotonic() < deadline, f"of {names} only {list(found)} came in {WAIT_S} s"
            time.sleep(0.1)


@contextmanager
def receiving_traces() -> Iterator[TraceReceiver]:
    """A receiver that runs as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.add(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = TraceReceiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
