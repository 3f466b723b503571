"""From a command line to a served model: vLLM's flags, the factors, the engine, the app, and a graceful end.

It does not parse our own flags (cli.py) or prepare the embedded model (embedded_model.py).
"""

from __future__ import annotations

import os
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import uvloop
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.logger import configure_logging_from_args
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext

from adapters.factors.factors import Factors
from adapters.factors.quantised import is_factors_file, served_factors
from clients.cli.calls import say
from server.api.app import create_app
from server.api.middleware.cors import CorsRules, take_cors
from server.auth.middleware import Mode, auth_mode
from server.auth.operator_keys import OperatorKeys
from server.core.settings import Settings
from server.db.database import Database
from server.engine.grammar_pool import settle_backend
from server.engine.metrics import stat_loggers
from server.engine.tools import settle_tools
from server.engine.vllm import AdapterLLM, VllmEngine
from server.launch.adapter_support import check_adapters_supported
from server.launch.engine_output import kept_short
from server.launch.engine_watch import watched_start
from server.launch.factors_apart import build_apart
from server.launch.gpu_plan import WorkerGpus
from server.launch.http_server import check_tls, serve_http
from server.launch.listening import keep_local
from server.launch.listening_socket import listening_socket
from server.launch.own_worker_plan import (
    evolution_workers,
    methods_of,
    own_workers,
    reachable,
    trained_model,
    with_worker_key,
)
from server.launch.own_workers import OwnWorkers
from server.launch.self_check import check_adapters_work
from server.launch.start_checks import check_files
from server.launch.start_messages import (
    check_machine,
    say_how_secrets_are_stored,
    say_how_to_try,
    say_original,
    say_what_is_adapted,
    say_who_trains,
    share_gpus,
)
from server.launch.vllm_flags import check_delta, check_ray, enable_adapters, parse_vllm_args, take_api_keys
from server.observability.trace_export import trace_target, tracer_provider

ENGINE_STOP_TIMEOUT_S = 10
# More at once would hold up whoever asks meanwhile; on a CPU eight sequences are not far from as fast as it gets.
CPU_BATCH_REQUESTS = 8


def serve(settings: Settings, model: str, vllm_flags: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running. Raises FactorsError for a model without factors."""
    args = parse_vllm_args(model, vllm_flags)
    check_delta(settings.delta)
    check_ray(args)
    check_tls(args)
    configure_logging_from_args(args)
    api_keys = take_api_keys(args, envs.VLLM_API_KEY)
    cors = take_cors(args)
    database = Database(settings.database_url, busy_timeout_s=settings.database_busy_timeout_s)
    with closing(database):
        mode = auth_mode(OperatorKeys.of(settings, api_keys), database)
        if mode == "open":
            keep_local(args)
        check_machine(args, settings)
        check_files(settings, database)
        settings = with_worker_key(settings, mode)
        if current_platform.is_cpu() and settings.max_batch_requests is None:
            settings = settings.model_copy(update={"max_batch_requests": CPU_BATCH_REQUESTS})
        trained = trained_model(args, settings)
        gpus = share_gpus(args, settings, model, trained)
        source = settings.factors_from or model
        if current_platform.is_cuda() and not is_factors_file(source):
            with _progress(f"Factors of {Path(source).name}: found, or computed on the GPU (once, some minutes)"):
                build_apart(source, rank=settings.factors_rank, kind=settings.factors_kind)
        factors = served_factors(model, settings.factors_from, rank=settings.factors_rank, kind=settings.factors_kind)
        say_original(args, settings, factors, trained)
        say_who_trains(args, settings, trained)
        say_how_secrets_are_stored(settings)
        say_what_is_adapted(settings.factors_from or model)
        enable_adapters(args, factors, settings.delta)
        uvloop.run(_serve(settings, args, factors, database, api_keys, mode, cors, trained, gpus))


async def _serve(
    settings: Settings,
    args: Namespace,
    factors: Factors,
    database: Database,
    api_keys: Sequence[str],
    mode: Mode,
    cors: CorsRules | None,
    trained: str | None,
    gpus: Sequence[WorkerGpus],
) -> None:
    async with AsyncExitStack() as ending:
        address, sock = ending.enter_context(listening_socket(args))
        log = None if settings.engine_log == "-" else Path(settings.engine_log)
        with _progress("Starting the engine (a first start compiles the model: a minute or more)"), watched_start(log):
            client = _start_engine(args)
        ending.callback(client.shutdown, timeout=ENGINE_STOP_TIMEOUT_S)
        await client.reset_mm_cache()
        engine = VllmEngine(client, args, await client.get_supported_tasks(), factors)
        target = trace_target(args.otlp_traces_endpoint, os.environ)
        tracing = None if target is None else tracer_provider(target)
        workers = _workers(settings, args, factors, mode, trained, address, gpus)
        docs, methods = not args.disable_fastapi_docs, methods_of(workers)
        app = create_app(
            settings, engine, database, api_keys, tracing=tracing, cors=cors, own_methods=methods, docs=docs,
            root_path=args.root_path,
        )  # fmt: skip
        # Now, for vLLM's lifespan deletes `app.state` at its end.
        ending.push_async_callback(app.state.gateway.reads.close)
        await engine.start(app)
        with _progress("Asking the engine whether adapters work"), watched_start(log):
            await check_adapters_work(client, factors, engine.supported_tasks)
        announce = partial(say_how_to_try, address, engine.base_models[0], factors, mode)
        async with AsyncExitStack() as working:
            if log is not None:
                await working.enter_async_context(kept_short(log))
            for kind in workers:
                await working.enter_async_context(kind.running(database))
            await serve_http(
                app,
                sock,
                client,
                args,
                on_listening=announce,
                on_draining=app.state.gateway.draining.set,
                background=app.state.gateway.responses.running_in_background,
                notice_s=settings.drain_notice_s,
            )


def _workers(
    settings: Settings,
    args: Namespace,
    factors: Factors,
    mode: Mode,
    trained: str | None,
    address: str,
    gpus: Sequence[WorkerGpus],
) -> tuple[OwnWorkers, ...]:
    """The server's own, of both kinds."""
    url = reachable(address)
    same = factors.digest, args.chat_template, args.tokenizer
    return (
        own_workers(settings, mode, trained or "", url if trained else None, *same, gpus),
        evolution_workers(settings, mode, args.model, url, *same),
    )


def _start_engine(args: Namespace) -> AdapterLLM:
    engine_args = AsyncEngineArgs.from_cli_args(args)
    vllm_config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    check_adapters_supported(vllm_config)
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
    start, done = time.monotonic(), threading.Event()
    say(f"==> {sentence}")

    def tick() -> None:
        while not done.wait(15):
            say(f"    ... {time.monotonic() - start:.0f} s")

    threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        say(f"    took {time.monotonic() - start:.0f} s")
