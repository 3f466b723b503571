"""Structured logs: one line per event, for people or, as JSON, for machines; each with the id of its request.

Design decision: events go to stdout and carry fields, not sentences; a request is one event, logged when its response
has ended. Tracebacks come without the values of variables, which may be what users sent.

The engine and uvicorn log through the standard library in their own format, and are left alone.
"""

from __future__ import annotations

import logging
import sys
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.paths import OPERATIONS
from server.core.request_state import state_of
from server.core.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set structlog up for this process; calling it again replaces the set-up."""
    render: list[structlog.typing.Processor]
    if settings.log_format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )


class AccessLog:
    """Pure ASGI middleware that logs every HTTP request; the probes' requests only at level debug.

    `status` is None when the client left before the response began, `adapter` None for the base model, `tenant` None
    for a request without a valid key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status: int | None = None

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            state = state_of(scope)
            # Bound to the context only within the middleware that checks keys.
            principal = state.principal
            log = self._log.debug if scope["path"] in OPERATIONS else self._log.info
            log(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round((time.perf_counter() - began) * 1000, 1),
                adapter=state.adapter,
                tenant=principal and principal.tenant.name,
                key_id=principal and principal.key_id,
            )
