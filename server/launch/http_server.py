"""uvicorn with the app, until a signal ends it, gracefully."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from socket import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.config import create_ssl_context
from vllm import envs
from vllm.entrypoints.launchers.launcher import watchdog_loop
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher

from server.engine.vllm import AdapterLLM
from server.launch.bounded_http import BoundedHttp
from server.launch.draining import DrainingServer
from server.launch.listening_socket import listen
from server.launch.start_checks import CannotStart

# Longer than clients and load balancers keep a connection that nobody uses, mostly 60 s: who closes it must be them, or
# a request may be on its way while it is closed.
KEEP_ALIVE_S = 75


class EngineEnded(CannotStart):
    """The engine died while the server ran. The message is for the operator."""


def check_tls(args: Namespace) -> None:
    """CannotStart when the files of TLS that vLLM's `args` name cannot be used. Nothing is served with them."""
    if not (args.ssl_keyfile or args.ssl_certfile):
        return
    if not args.ssl_certfile:
        raise CannotStart("--ssl-keyfile needs --ssl-certfile, the certificate of that key.")
    try:
        create_ssl_context(
            args.ssl_certfile, args.ssl_keyfile, None, ssl.PROTOCOL_TLS_SERVER, args.ssl_cert_reqs, args.ssl_ca_certs,
            args.ssl_ciphers,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        files = ", ".join(filter(None, (args.ssl_keyfile, args.ssl_certfile, args.ssl_ca_certs)))
        raise CannotStart(f"TLS cannot be served with {files} ({error}): correct the --ssl flags.") from error


def keep_alive_s(environment: Mapping[str, str]) -> int:
    """Seconds after which a connection without requests is closed: vLLM's setting if it is set, else KEEP_ALIVE_S."""
    is_set = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE" in environment
    return envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE if is_set else KEEP_ALIVE_S


async def serve_http(
    app: FastAPI,
    sock: socket,
    client: AdapterLLM,
    args: Namespace,
    on_listening: Callable[[], None],
    on_draining: Callable[[], None],
    background: Callable[[], int],
    notice_s: float,
) -> None:
    """Serve until SIGTERM or SIGINT; then end as draining.py says, and return when the running requests have ended.
    `on_listening` is called once connections are taken, `on_draining` when a signal came; `background` says how many
    answers run without a connection.

    SIGINT is somebody's at the terminal, and so has no notice. SIGHUP, of a terminal that is closed, means the same as
    SIGTERM; where it is ignored, as under nohup, it stays so. A second signal cuts what still runs.

    EngineEnded when no signal came and the engine is dead: systemd starts another server only after a failure.

    vLLM's own `serve_http` stops the engine first: until the last answer has ended it would still accept requests, say
    that it is ready, and fail every one of them.
    """
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        host=args.host,
        port=args.port,
        log_level=args.uvicorn_log_level,
        log_config=get_uvicorn_log_config(args),
        access_log=False,  # the gateway's own log has a line per request, with its id and adapter
        timeout_keep_alive=keep_alive_s(os.environ),
        timeout_graceful_shutdown=args.shutdown_timeout,
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=args.ssl_cert_reqs,
        ssl_ciphers=args.ssl_ciphers,
    )
    config.load()
    server = DrainingServer(
        config, on_listening=on_listening, on_draining=on_draining, background=background, notice_s=notice_s
    )
    app.state.server = server  # vLLM's error handlers stop it when the engine has died
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, server.stop)
    loop.add_signal_handler(signal.SIGINT, partial(server.stop, notice=False))
    watchdog = loop.create_task(watchdog_loop(server, client))
    certificates = (
        SSLCertRefresher(config.ssl, config.ssl_keyfile, config.ssl_certfile, config.ssl_ca_certs)
        if args.enable_ssl_refresh
        else None
    )
    listen(sock, config.backlog)
    try:
        await server.serve(sockets=[sock])
    finally:
        watchdog.cancel()
        if certificates is not None:
            certificates.stop()
    if client.errored and not server.was_stopped:
        raise EngineEnded("The engine has ended, and so does the server; what the engine printed last says why.")
