"""For operators: /health (restart me?), /ready (send me requests?) and /metrics.

The engine's metrics and ours are in separate registries and joined when asked for, so that several apps in one process,
as in tests, do not collide.
"""

from __future__ import annotations

import asyncio

import prometheus_client
import structlog
from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from server.api.deps import Gateway, GatewayDep
from server.api.own_route import OwnRoute
from server.core.errors import Unavailable

router = APIRouter(tags=["operations"], route_class=OwnRoute)


@router.get("/health")
async def health(gateway: GatewayDep) -> dict[str, str]:
    """200 while the process and the engine are alive and requests get on; 503 when only a restart helps."""
    await _check_engine(gateway)
    return {"status": "ok"}


@router.get("/ready")
async def ready(gateway: GatewayDep) -> dict[str, str]:
    """200 when the engine answers and the database can be written, else 503; 503 also once the server is ending."""
    if gateway.draining.is_set():
        raise Unavailable(
            "This server is ending, and finishes what runs; send requests to another one.", code="draining"
        )
    await _check_engine(gateway)
    try:
        await run_in_threadpool(gateway.database.check_writable)
    except SQLAlchemyError as error:
        raise Unavailable(
            "The registry's database cannot be written; see the server's log and its disk.", code="database_unavailable"
        ) from error
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(gateway: GatewayDep) -> Response:
    """Prometheus' text format: the engine's metrics and the gateway's."""
    text = prometheus_client.generate_latest() + gateway.metrics.render()
    return Response(text, media_type=prometheus_client.CONTENT_TYPE_PLAIN_0_0_4)


async def _check_engine(gateway: Gateway) -> None:
    try:
        async with asyncio.timeout(gateway.settings.health_timeout_s):
            await gateway.engine.check_health()
    # Whatever an engine raises when it is dead is the engine's affair.
    except Exception as error:
        raise Unavailable(f"The engine is not alive: {type(error).__name__}.", code="engine_unavailable") from error
    silent_s, most_s = gateway.engine.silent_s, gateway.settings.engine_silence_s
    if silent_s > most_s:
        log: structlog.stdlib.BoundLogger = structlog.get_logger()
        log.error("engine_hangs", silent_s=round(silent_s))
        raise Unavailable(
            f"The engine hangs: requests have waited for {silent_s:.0f} s and it has given nothing. Restart this "
            f"server; if one step can take so long here, raise TINYLORA_ENGINE_SILENCE_S, which is {most_s:g}.",
            code="engine_hangs",
        )
