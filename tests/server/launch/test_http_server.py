"""uvicorn as the server runs it."""

from __future__ import annotations

import os
import signal
import socket
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from server.launch.http_server import EngineEnded, check_tls, serve_http
from server.launch.start_checks import CannotStart

NO_TLS = dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ciphers"))
ARGS = Namespace(
    **NO_TLS, ssl_cert_reqs=0, enable_ssl_refresh=False, host="127.0.0.1", port=0, shutdown_timeout=5,
    uvicorn_log_level="error", disable_uvicorn_access_log=True, disable_access_log_for_endpoints=None,
    log_config_file=None,
)  # fmt: skip


async def serve(on_listening: Callable[[FastAPI, socket.socket], object], *, engine_ends: bool = False) -> None:
    """Until `on_listening` has it end."""
    app = FastAPI()
    engine: Any = SimpleNamespace(errored=engine_ends, is_running=not engine_ends)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        listening = partial(on_listening, app, sock)
        await serve_http(
            app, sock, engine, ARGS, on_listening=listening, on_draining=lambda: None, background=int, notice_s=0
        )


async def test_what_is_announced_can_be_connected_to() -> None:
    connected: list[bool] = []

    def connect(app: FastAPI, sock: socket.socket) -> None:
        socket.create_connection(sock.getsockname(), timeout=5).close()
        connected.append(True)
        app.state.server.should_exit = True

    await serve(connect)
    assert connected == [True]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_is_an_end_in_good_order_even_when_the_engine_got_it_too(number: signal.Signals) -> None:
    await serve(lambda *_: os.kill(os.getpid(), number), engine_ends=True)


async def test_an_engine_that_ends_by_itself_is_a_failure_of_the_server() -> None:
    def find_it_dead(app: FastAPI, _sock: socket.socket) -> None:
        app.state.server.should_exit = True  # as vLLM's watch does

    with pytest.raises(EngineEnded, match="what the engine printed last says why"):
        await serve(find_it_dead, engine_ends=True)


def test_files_of_tls_that_cannot_be_used_are_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")

    def check(**files: str) -> None:
        check_tls(Namespace(**{**vars(ARGS), **files}))

    check()
    with pytest.raises(CannotStart, match=r"TLS cannot be served with .*/nowhere.pem \(.*No such file"):
        check(ssl_certfile=f"{tmp_path}/nowhere.pem")
    with pytest.raises(CannotStart, match=r"TLS cannot be served with .*key.pem"):
        check(ssl_certfile=f"{tmp_path}/key.pem", ssl_keyfile=f"{tmp_path}/key.pem")
    with pytest.raises(CannotStart, match="--ssl-keyfile needs --ssl-certfile"):
        check(ssl_keyfile=f"{tmp_path}/key.pem")
