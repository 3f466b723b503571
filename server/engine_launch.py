"""From a command line to a served model: vLLM's flags, the factors, the engine, the app, and a graceful end.

Design decision: vLLM's own argument parser reads everything that is not ours, so every vLLM flag works as its
documentation says; the only defaults changed are those that per-request adapters need.

It does not parse our own flags (cli.py) or prepare the embedded model (embedded_model.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from socket import socket

import uvicorn
import uvloop
from fastapi import FastAPI
from rich.console import Console
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import NoSignalServer, setup_server, watchdog_loop
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from adapters.factors import Factors
from adapters.factors_build import find_or_build_factors
from adapters.vllm_plugin import adapter_options
from server.app import create_app
from server.auth import Mode, auth_mode
from server.bounded_http import BoundedHttp
from server.cors import CorsRules, take_cors
from server.cpu_defaults import set_cpu_defaults
from server.database import Database
from server.engine import AdapterLLM, VllmEngine
from server.engine_check import check_adapters_work
from server.engine_grammars import settle_backend
from server.engine_metrics import stat_loggers
from server.engine_tools import check_tool_flags, leave_tools_open, settle_tools
from server.engine_watch import end_the_start, watched_start
from server.listening import keep_local
from server.operator_keys import OperatorKeys, take_api_keys
from server.own_workers import own_workers, reachable, with_worker_key
from server.settings import Settings
from server.start_checks import cannot_listen
from server.start_messages import check_machine
from server.trace_export import tell_vllm, trace_target, tracer_provider

# Long enough for a running answer to end; vLLM's own default aborts it at once.
SHUTDOWN_TIMEOUT_S = 60
ENGINE_STOP_TIMEOUT_S = 10
# Longer than clients and load balancers keep a connection that nobody uses, mostly 60 s: who closes it must be them, or
# a request may be on its way while it is closed.
KEEP_ALIVE_S = 75


def parse_vllm_args(model: str, vllm_flags: Sequence[str]) -> Namespace:
    """vLLM's serve flags for `model`. Exits with vLLM's own message where a flag is wrong."""
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="tinylora serve"))
    parser.set_defaults(scheduling_policy="priority")  # so that requests may ask to come after others
    leave_tools_open(parser)
    args = parser.parse_args([model, *vllm_flags])
    args.model = args.model_tag
    check_tool_flags(args, parser)
    if args.api_server_count not in (None, 1) or args.headless or args.grpc:
        parser.error("tinylora serves one HTTP API process; leave out --api-server-count, --headless and --grpc")
    if args.enable_lora or args.lora_modules:
        parser.error("tinylora takes the place of vLLM's own LoRA; leave out --enable-lora and --lora-modules")
    if envs.VLLM_ENABLE_RESPONSES_API_STORE:
        parser.error("stored responses can be read with their id by any tenant; unset VLLM_ENABLE_RESPONSES_API_STORE")
    if args.served_model_name is None and Path(model).is_dir():
        args.served_model_name = [Path(model).resolve().name]
    if not args.shutdown_timeout:
        args.shutdown_timeout = SHUTDOWN_TIMEOUT_S
    if current_platform.is_cpu():
        set_cpu_defaults(args)
    validate_parsed_serve_args(args)
    try:
        tell_vllm(trace_target(args.otlp_traces_endpoint, os.environ), args, os.environ)
    except ValueError as error:
        parser.error(str(error))
    return args


def keep_alive_s(environment: Mapping[str, str]) -> int:
    """Seconds after which a connection without requests is closed: vLLM's setting if it is set, else KEEP_ALIVE_S."""
    is_set = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE" in environment
    return envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE if is_set else KEEP_ALIVE_S


def enable_adapters(args: Namespace, factors: Factors) -> None:
    """Switch per-request TinyLoRA on in vLLM's arguments."""
    options = adapter_options(factors)
    options["additional_config"] = {**(args.additional_config or {}), **options["additional_config"]}
    vars(args).update(options)


def serve(settings: Settings, model: str, vllm_flags: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running. Raises FactorsError for a model without factors."""
    args = parse_vllm_args(model, vllm_flags)
    configure_logging_from_args(args)
    api_keys = take_api_keys(args, envs.VLLM_API_KEY)
    cors = take_cors(args)
    database = Database(settings.database_url, busy_timeout_s=settings.database_busy_timeout_s)
    with closing(database):
        mode = auth_mode(OperatorKeys.of(settings, api_keys), database)
        if mode == "open":
            keep_local(args)
        check_machine(args, settings)
        settings = with_worker_key(settings, mode)
        factors = find_or_build_factors(model, rank=settings.factors_rank, kind=settings.factors_kind)
        enable_adapters(args, factors)
        uvloop.run(_serve(settings, args, factors, database, api_keys, mode, cors))


async def _serve(
    settings: Settings,
    args: Namespace,
    factors: Factors,
    database: Database,
    api_keys: Sequence[str],
    mode: Mode,
    cors: CorsRules | None,
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_the_start)  # until uvicorn's handlers stand
    async with AsyncExitStack() as ending:
        try:
            address, sock = setup_server(args, reuse_port=False)
        except OSError as error:
            raise cannot_listen(args.host, args.port, error) from error
        ending.callback(sock.close)
        log = None if settings.engine_log == "-" else Path(settings.engine_log)
        with _progress("Starting the engine (a first start compiles the model: a minute or more)"), watched_start(log):
            client = _start_engine(args)
        ending.callback(client.shutdown, timeout=ENGINE_STOP_TIMEOUT_S)
        await client.reset_mm_cache()
        engine = VllmEngine(client, args, await client.get_supported_tasks(), factors)
        target = trace_target(args.otlp_traces_endpoint, os.environ)
        tracing = None if target is None else tracer_provider(target)
        app = create_app(settings, engine, database, api_keys, tracing, cors)
        # Now, for vLLM's lifespan deletes `app.state` at its end.
        ending.push_async_callback(app.state.gateway.reads.close)
        await engine.start(app)
        with watched_start(log):
            await check_adapters_work(client, factors, engine.supported_tasks)
        workers = own_workers(settings, mode, args.model, reachable(address), factors.digest, args.chat_template)
        _announce(address.replace("0.0.0.0", "localhost"), engine, mode)
        async with workers.running(database):
            await _serve_http(app, sock, client, args)


def _start_engine(args: Namespace) -> AdapterLLM:
    engine_args = AsyncEngineArgs.from_cli_args(args)
    vllm_config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    settle_tools(args, vllm_config.model_config)
    settle_backend(vllm_config)
    # As many adapters as requests in a batch: the scheduler then never holds a request back for its adapter.
    vllm_config.lora_config.max_loras = vllm_config.scheduler_config.max_num_seqs
    vllm_config.lora_config.max_cpu_loras = vllm_config.scheduler_config.max_num_seqs
    client = AdapterLLM.from_vllm_config(
        vllm_config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        stat_loggers=stat_loggers(disable_log_stats=engine_args.disable_log_stats),
        disable_log_stats=engine_args.disable_log_stats,
    )
    assert isinstance(client, AdapterLLM)
    return client


@contextmanager
def _progress(sentence: str) -> Iterator[None]:
    """A line now, and one every few seconds with the time that has passed: start-up output ends up in log files."""
    console, start, done = Console(stderr=True), time.monotonic(), threading.Event()
    console.print(f"==> {sentence}", highlight=False)

    def tick() -> None:
        while not done.wait(15):
            console.print(f"    ... {time.monotonic() - start:.0f} s", highlight=False)

    threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        console.print(f"    took {time.monotonic() - start:.0f} s", highlight=False)


def _announce(address: str, engine: VllmEngine, mode: Mode) -> None:
    model = engine.base_models[0]
    if mode == "open":
        access, key = "Without API keys, and so for this machine only; set TINYLORA_ADMIN_KEY to serve others. ", ""
    else:
        make = f"tinylora keys create default me --scope infer --scope adapters --url {address}"
        access = f"Every request needs an API key; with the admin key, this makes one:\n\n  {make}\n\n"
        key = ' -H "Authorization: Bearer $TINYLORA_API_KEY"'
    print(
        f"""
{model} is served on {address}, with an adapter of its own in every request.
{access}To try it:

  python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex("4d3e" * 13))' > demo.bin   # 13 x 0.2, 26 bytes
  curl -s '{address}/adapters?name=demo'{key} -H 'Content-Type: application/octet-stream' --data-binary @demo.bin
  curl -s {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{{
    "model": "{model}", "adapter": "demo", "max_tokens": 64, "temperature": 0,
    "messages": [{{"role": "user", "content": "Write one sentence about the sea."}}]}}'
""",
        flush=True,
    )


async def _serve_http(app: FastAPI, sock: socket, client: AdapterLLM, args: Namespace) -> None:
    """Serve until SIGTERM or SIGINT; then refuse connections at once, and return when the running requests have ended.

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
    server = NoSignalServer(config)
    app.state.server = server  # vLLM's error handlers stop it when the engine has died
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(setattr, server, "should_exit", True))
    watchdog = loop.create_task(watchdog_loop(server, client))
    certificates = (
        SSLCertRefresher(config.ssl, config.ssl_keyfile, config.ssl_certfile, config.ssl_ca_certs)
        if args.enable_ssl_refresh
        else None
    )
    try:
        await server.serve(sockets=[sock])
    finally:
        watchdog.cancel()
        if certificates is not None:
            certificates.stop()
