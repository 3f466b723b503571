"""A tenant's grader on a real socket of this machine: answers from a script, and keeps what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


@dataclass
class EndpointApp:
    """answers: (status, JSON or bytes) in turn, the last one for ever; a function of the request's body is called.
    hold: an event that every answer waits for."""

    answers: Sequence[Any]
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hold: threading.Event | None = None

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]


@contextmanager
def endpoint_app(
    *answers: Any, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[EndpointApp]:
    app = EndpointApp(answers, headers or {})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            app.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            answer = app.answers[min(len(app.requests), len(app.answers)) - 1]
            status, content = answer(json.loads(body)) if callable(answer) else answer
            if app.hold is not None:
                app.hold.wait(10)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**app.headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    app.url = f"{'http' if tls is None else 'https'}://localhost:{server.server_port}/grade"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield app
    finally:
        if app.hold is not None:
            app.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
