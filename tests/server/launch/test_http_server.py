"""uvicorn as the server runs it."""

from __future__ import annotations

import socket
from argparse import Namespace
from functools import partial
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from server.launch.http_server import serve_http

NO_TLS = dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ciphers"))


async def test_what_is_announced_can_be_connected_to() -> None:
    app, connected = FastAPI(), []
    engine: Any = SimpleNamespace(errored=False, is_running=True)
    args = Namespace(
        **NO_TLS, ssl_cert_reqs=0, enable_ssl_refresh=False, host="127.0.0.1", port=0, shutdown_timeout=5,
        uvicorn_log_level="error", disable_uvicorn_access_log=True, disable_access_log_for_endpoints=None,
        log_config_file=None,
    )  # fmt: skip
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))

        def connect() -> None:
            socket.create_connection(sock.getsockname(), timeout=5).close()
            connected.append(True)
            app.state.server.should_exit = True

        draining: list[bool] = []
        noted = partial(draining.append, True)
        await serve_http(app, sock, engine, args, on_listening=connect, on_draining=noted, notice_s=0)
    assert connected == draining == [True]
