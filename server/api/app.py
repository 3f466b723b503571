"""The HTTP application: the gateway's routes, then the engine's, and the middlewares in the order a request meets them.

    RootPath -> Observe -> Cors -> ProxyHeaders -> AnthropicErrors -> BrowserGuard -> CutAnswers -> UnhandledErrors
    -> ShortPaths -> AuthMiddleware -> PrintablePaths -> PlainBodies -> HeadRequests -> BodyMemory -> RefusedRoutes
    -> EngineErrors -> the engine's own -> InferenceMiddleware -> NoteRoute

All parts are handed in; the app of the tests differs from the real one by its engine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version

from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from server.api.batches_app import add_batches
from server.api.error_handlers import install_error_handlers
from server.api.gateway_parts import new_gateway
from server.api.lifespan import run_with
from server.api.middleware.anthropic_errors import AnthropicErrors
from server.api.middleware.browser_guard import BrowserGuard
from server.api.middleware.cors import Cors, CorsRules
from server.api.middleware.cut_answers import CutAnswers
from server.api.middleware.engine_errors import EngineErrors
from server.api.middleware.head_requests import HeadRequests
from server.api.middleware.plain_bodies import PlainBodies
from server.api.middleware.printable_paths import PrintablePaths
from server.api.middleware.proxy_headers import ProxyHeaders
from server.api.middleware.refused_routes import RefusedRoutes
from server.api.middleware.root_path import RootPath
from server.api.middleware.short_paths import ShortPaths
from server.api.middleware.unhandled_errors import UnhandledErrors
from server.api.openapi import document_errors
from server.api.routes import adapters, aliases, audit, bulk, keys, limits, models, ops, responses, tenants, usage
from server.api.routes import webhooks as webhook_routes
from server.api.routes.console import PREFIX as CONSOLE
from server.api.routes.console import console_router, open_paths, read_console
from server.api.routes.docs_page import docs_router, read_docs
from server.api.stored_secrets import secrets_sealed_anew
from server.api.training_app import add_training
from server.api.unknown_paths import UnknownPaths
from server.auth.middleware import AuthMiddleware, auth_mode
from server.auth.operator_keys import OperatorKeys
from server.core.first_fault import read_to_first_fault
from server.core.settings import Settings
from server.db.database import Database
from server.db.database_clock import DatabaseClock
from server.db.retention import rules_of, sweeping
from server.engine.protocol import Engine
from server.inference.adapter_field import AdapterField
from server.inference.admission import new_admission
from server.inference.early_check import EarlyCheck
from server.inference.engine_forms import EngineForms
from server.inference.middleware import InferenceMiddleware
from server.inference.resolve import Resolver
from server.inference.service_tier import ServiceTiers
from server.limits.body_memory import BodyMemory, BodyRoom
from server.limits.quotas import Quotas
from server.limits.redis_quotas import redis_quotas
from server.observability.http_metrics import NoteRoute
from server.observability.logging import configure_logging
from server.observability.metrics import GatewayMetrics
from server.observability.observe import Observe
from server.observability.trace_export import exporting
from server.observability.tracing import TRACER
from server.training.files.sweep import file_rule
from server.training.files.uploads import UploadRule
from server.training.jobs.config import METHODS, Method


def create_app(
    settings: Settings,
    engine: Engine,
    database: Database,
    api_keys: Sequence[str] = (),
    tracing: TracerProvider | None = None,
    cors: CorsRules | None = None,
    own_methods: Collection[Method] = METHODS,
    docs: bool = True,
    root_path: str = "",
) -> FastAPI:
    """The application. `api_keys` are those of vLLM's flag, for the default tenant. Without `cors`, browsers let no
    page of another site read its answers. `own_methods`: of the training jobs for which the server starts workers.
    docs: whether /docs and /openapi.json are there. root_path: see api/middleware/root_path.py.

    It shuts `tracing` down at its end; its caller closes `app.state.gateway.reads` and `database`.
    """
    configure_logging(settings)
    metrics = GatewayMetrics(max_adapters=settings.max_labelled_adapters, max_tenants=settings.max_labelled_tenants)
    metrics.watch_engine(lambda: engine.silent_s)
    app = FastAPI(
        title="TinyLoRA serving",
        description="Adapters of a few bytes, a different one in every request.",
        version=version("tinylora-serve"),
        redirect_slashes=False,  # see unknown_paths.py
        openapi_url="/openapi.json" if docs else None,
        docs_url=None,  # see docs_page.py
        redoc_url=None,
        # And not `root_path`: routes would be found behind a second prefix, which the middlewares take for a path.
        servers=[{"url": root_path}] if root_path else None,
    )
    shared = redis_quotas(settings, metrics.quota_fallbacks)
    gateway = new_gateway(settings, engine, database, metrics, Quotas(shared))
    app.state.gateway = gateway
    forms = EngineForms(engine.factors, gateway.recipes)

    # Before the engine's, so that where both have a route (/health, /metrics, /v1/models) ours answers.
    for routes in (
        ops,
        aliases,
        bulk,
        adapters,
        models,
        responses,
        webhook_routes,
        usage,
        limits,
        audit,
        tenants,
        keys,
    ):
        app.include_router(routes.router)
    console = read_console() if settings.console else {}
    if console:
        app.include_router(console_router(console))
    docs_files = read_docs() if docs else {}
    app.include_router(docs_router(docs_files))

    operator_keys = OperatorKeys.of(settings, api_keys)
    mode = auth_mode(operator_keys, database)
    field = AdapterField(gateway.registry, engine, metrics, forms, max_mixed=settings.max_mixed_adapters)
    admission = new_admission(settings, engine, gateway.quotas, metrics.registry, has_tenants=mode != "open")
    # The middleware added last is met first.
    app.add_middleware(NoteRoute)
    app.add_middleware(
        InferenceMiddleware,
        engine=engine,
        resolver=Resolver(
            engine,
            field,
            ServiceTiers(gateway.quotas),
            metrics,
            gateway.responses.store,
            max_bytes=settings.max_request_bytes,
            max_values=settings.max_request_values,
        ),
        admission=admission,
        metrics=metrics,
        meter=gateway.usage,
        responses=gateway.responses,
    )
    engine.mount(app)
    app.add_middleware(EngineErrors)
    add_training(app, settings, database, metrics.registry, own_methods)
    if shared is not None:
        run_with(app, shared.running())
    run_with(app, forms.running())
    run_with(app, gateway.writability.watching())
    run_with(app, gateway.usage.flushing(settings.usage_flush_s))
    run_with(app, gateway.responses.tending())
    run_with(app, secrets_sealed_anew(database, gateway.webhooks.secrets))
    run_with(app, gateway.webhooks.running())
    files = app.state.training.files
    run_with(app, sweeping(database, [*rules_of(settings), file_rule(settings, files), UploadRule(files)]))
    # The last of all, so that it runs within what its lines need.
    check = EarlyCheck(engine, field, admission, gateway.responses.store.limits)
    add_batches(app, settings, engine, database, files, check, gateway.usage)
    if not database.is_sqlite:
        # Around all that keeps leases.
        run_with(app, DatabaseClock(database).followed())
    document_errors(app, mode)
    read_to_first_fault(app)
    app.add_middleware(RefusedRoutes)
    app.add_middleware(
        BodyMemory,
        room=BodyRoom(settings.max_held_body_bytes, "max_held_body_bytes"),
        disk=BodyRoom(settings.spooled_body_bytes, "max_spooled_body_bytes"),
    )
    app.add_middleware(HeadRequests)
    app.add_middleware(PlainBodies)
    app.add_middleware(PrintablePaths)
    app.add_middleware(
        AuthMiddleware,
        mode=mode,
        keys=operator_keys,
        reads=gateway.reads,
        metrics_without_key=settings.metrics_without_key,
        also_open=(open_paths(console) if console else frozenset()) | docs_files.keys(),
        unknown_path=UnknownPaths(app, CONSOLE, console).refusal,
    )
    app.add_middleware(ShortPaths)
    app.add_middleware(UnhandledErrors, handle=install_error_handlers(app))
    app.add_middleware(CutAnswers, ending=gateway.draining)
    if mode == "open":
        app.add_middleware(BrowserGuard, allowed_hosts=settings.host_names, cors=cors)
    app.add_middleware(AnthropicErrors)
    app.add_middleware(ProxyHeaders)
    if cors is not None:
        app.add_middleware(Cors, rules=cors)
    if tracing is not None:
        run_with(app, exporting(tracing))
    tracer = None if tracing is None else tracing.get_tracer(TRACER)
    app.add_middleware(Observe, seconds=metrics.http_seconds, tracer=tracer)
    if root_path:
        app.add_middleware(RootPath, root_path=root_path)
    return app
