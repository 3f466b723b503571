"""The HTTP application: the gateway's routes, then the engine's, and the middlewares as a request meets them.

    RequestId -> AccessLog -> HttpMetrics -> Telemetry -> Cors -> StreamHeaders -> AnthropicErrors -> BrowserGuard
    -> LastResort -> AdaptersAlias -> AuthMiddleware -> PlainBodies -> HeadRequests -> BodyMemory -> RefusedRoutes
    -> EngineErrors -> ResponsesEvents -> the engine's own -> AdapterMiddleware -> Stage -> Admission -> GrammarCheck
    -> Stage -> NoteRoute

Design decision: everything is handed in, nothing is looked up; a test's app differs from the real one by its engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from server.adapter_field import AdapterField
from server.adapter_middleware import AdapterMiddleware
from server.adapters_alias import AdaptersAlias
from server.admission import add_admission
from server.anthropic_errors import AnthropicErrors
from server.auth import AuthMiddleware, auth_mode
from server.body_memory import BodyMemory, BodyRoom
from server.browser_guard import BrowserGuard
from server.content_encoding import PlainBodies
from server.cors import Cors, CorsRules
from server.database import Database
from server.engine_api import Engine
from server.engine_error_shape import EngineErrors
from server.engine_forms import EngineForms
from server.error_handlers import install_error_handlers
from server.gateway import Gateway
from server.grammar_check import GrammarCheck
from server.head_requests import HeadRequests
from server.http_metrics import HttpMetrics, NoteRoute
from server.last_resort import LastResort
from server.lifespan import run_with
from server.logging import AccessLog, configure_logging
from server.metrics import GatewayMetrics
from server.openapi_docs import document_errors
from server.operator_keys import OperatorKeys
from server.paths import OWN_PREFIXES
from server.point_reads import open_point_reads
from server.recipe_budget import RecipeBudget
from server.refused_routes import RefusedRoutes
from server.registry import Registry
from server.request_id import RequestId
from server.responses_api import ResponsesEvents
from server.retention import sweeping
from server.routes import adapters, aliases, audit, bulk, keys, models, ops, tenants, usage
from server.settings import Settings
from server.stream_headers import StreamHeaders
from server.telemetry import ADMISSION, ENGINE, Stage, Telemetry, tracer_of
from server.trace_export import exporting
from server.training_app import add_training
from server.usage import UsageMeter
from server.writes import Writes


def create_app(
    settings: Settings,
    engine: Engine,
    database: Database,
    api_keys: Sequence[str] = (),
    tracing: TracerProvider | None = None,
    cors: CorsRules | None = None,
) -> FastAPI:
    """The application; `api_keys` are those of vLLM's flag, for the default tenant. It shuts `tracing` down at its end.
    Without `cors` no page of another site can read its answers.

    The caller closes `app.state.gateway.reads` and `database` when it is done with it.
    """
    configure_logging(settings)
    metrics = GatewayMetrics(max_adapters=settings.max_labelled_adapters, max_tenants=settings.max_labelled_tenants)
    app = FastAPI(title="TinyLoRA serving", description="Adapters of a few bytes, a different one in every request.")
    reads = open_point_reads(database)
    registry = Registry(database, reads, cache_size=settings.resolve_cache_size)
    recipes = RecipeBudget(
        modules=len(engine.factors.modules), per_minute=settings.recipe_ms_per_minute, at_once=settings.max_recipe_ms
    )
    forms = EngineForms(engine.factors, recipes)
    meter = UsageMeter(database, metrics.usage_flush_failures)
    writes = Writes(database)
    app.state.gateway = Gateway(settings, engine, database, reads, writes, registry, metrics, meter, recipes)
    app.state.gateway_metrics = metrics

    # Before the engine's, so that where both have a route (/health, /metrics, /v1/models) ours answers.
    for routes in (ops, aliases, bulk, adapters, models, usage, audit, tenants, keys):
        app.include_router(routes.router)

    # The middleware added last is met first.
    app.add_middleware(NoteRoute)
    if tracing is not None:
        app.add_middleware(Stage, name=ENGINE)
    app.add_middleware(GrammarCheck, engine=engine)
    add_admission(app, settings, engine, metrics.registry)
    if tracing is not None:
        app.add_middleware(Stage, name=ADMISSION)
    app.add_middleware(
        AdapterMiddleware,
        engine=engine,
        field=AdapterField(registry, engine, metrics, forms, max_mixed=settings.max_mixed_adapters),
        metrics=metrics,
        meter=meter,
        max_bytes=settings.max_request_bytes,
        max_values=settings.max_request_values,
        own_prefixes=OWN_PREFIXES,
    )
    engine.mount(app)
    app.add_middleware(ResponsesEvents)
    app.add_middleware(EngineErrors)
    add_training(app, settings, database, metrics.registry)
    run_with(app, forms.running())
    run_with(app, meter.flushing(settings.usage_flush_s))
    run_with(app, sweeping(database, settings))
    operator_keys = OperatorKeys.of(settings, api_keys)
    mode = auth_mode(operator_keys, database)
    document_errors(app, mode)
    app.add_middleware(RefusedRoutes)
    app.add_middleware(BodyMemory, room=BodyRoom(settings.max_held_body_bytes))
    app.add_middleware(HeadRequests)
    app.add_middleware(PlainBodies)
    app.add_middleware(
        AuthMiddleware,
        mode=mode,
        keys=operator_keys,
        reads=reads,
        metrics_without_key=settings.metrics_without_key,
    )
    app.add_middleware(AdaptersAlias)
    app.add_middleware(LastResort, handle_unexpected=install_error_handlers(app))
    if mode == "open":
        app.add_middleware(BrowserGuard, allowed_hosts=settings.host_names, cors=cors)
    app.add_middleware(AnthropicErrors)
    app.add_middleware(StreamHeaders)
    if cors is not None:
        app.add_middleware(Cors, rules=cors)
    if tracing is not None:
        app.add_middleware(Telemetry, tracer=tracer_of(tracing))
        run_with(app, exporting(tracing))
    app.add_middleware(HttpMetrics, seconds=metrics.http_seconds)
    app.add_middleware(AccessLog)
    app.add_middleware(RequestId)
    return app
