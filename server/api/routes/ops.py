"""For operators: /health (restart me?), /ready (send me requests?) and /metrics.

The engine's metrics and ours are in separate registries and joined when asked for, so that several apps in one process,
as in tests, do not collide.
"""

from __future__ import annotations

import asyncio

import anyio
import prometheus_client
import structlog
from fastapi import APIRouter, Response

from server.api.deps import Gateway, GatewayDep
from server.api.own_route import OwnRoute
from server.core.errors import ENGINE_DEAD, Unavailable
from server.core.principal import DEFAULT_TENANT_NAME

router = APIRouter(tags=["operations"], route_class=OwnRoute)


@router.get("/health")
async def health(gateway: GatewayDep) -> dict[str, str]:
    """200 while the process and the engine are alive and requests get on; 503 when only a restart helps."""
    await _check_engine(gateway)
    return {"status": "ok"}


@router.get("/ready")
async def ready(gateway: GatewayDep) -> dict[str, str]:
    """200 when engine and database answer, and the database has taken a write since the start; else 503, and once the
    server is ending."""
    if gateway.draining.is_set():
        raise Unavailable(
            "This server is ending, and finishes what runs; send requests to another one.", code="draining"
        )
    until = asyncio.get_running_loop().time() + gateway.settings.health_timeout_s
    await _check_engine(gateway)
    await _check_database(gateway, until)
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(gateway: GatewayDep) -> Response:
    """Prometheus' text format: the engine's metrics and the gateway's."""
    # Not one of the threads of all routes, which may all be waiting for the database.
    text = await anyio.to_thread.run_sync(_metrics, gateway, limiter=anyio.CapacityLimiter(1))
    return Response(text, media_type=prometheus_client.CONTENT_TYPE_PLAIN_0_0_4)


def _metrics(gateway: Gateway) -> bytes:
    return prometheus_client.generate_latest() + gateway.metrics.render()


async def _check_database(gateway: Gateway, until: float) -> None:
    """What requests ask of it before they run. Why writes matter only at first: server/db/writability.py."""
    try:
        async with asyncio.timeout_at(until):
            await gateway.reads.tenant(DEFAULT_TENANT_NAME)
    except TimeoutError as error:
        raise Unavailable(
            "The registry's database does not answer; see the server's log and the database.",
            code="database_unavailable",
        ) from error
    left_s = max(0.0, until - asyncio.get_running_loop().time())
    if not gateway.writability.proven and not await gateway.writability.takes_writes(left_s):
        raise Unavailable(
            "The registry's database has taken no write since this server started; see the server's log, and the "
            "database's disk and permissions.",
            code="database_unavailable",
        )


async def _check_engine(gateway: Gateway) -> None:
    try:
        async with asyncio.timeout(gateway.settings.health_timeout_s):
            await gateway.engine.check_health()
    # Whatever an engine raises when it is dead is the engine's affair.
    except Exception as error:
        raise Unavailable(f"The engine is not alive: {type(error).__name__}.", code=ENGINE_DEAD) from error
    silent_s, most_s = gateway.engine.silent_s, gateway.settings.engine_silence_s
    if silent_s > most_s:
        log: structlog.stdlib.BoundLogger = structlog.get_logger()
        log.error("engine_hangs", silent_s=round(silent_s))
        raise Unavailable(
            f"The engine hangs: requests have waited for {silent_s:.0f} s and it has given nothing. Restart this "
            f"server; if one step can take so long here, raise TINYLORA_ENGINE_SILENCE_S, which is {most_s:g}.",
            code="engine_hangs",
        )
