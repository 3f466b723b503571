"""Structured logs: one line per event, for people or, as JSON, for machines; each with the id of its request.

Events go to stdout and have fields instead of sentences. A request is one event, logged when its response has ended.
Tracebacks come without the values of variables, which may hold what users sent.

The engine and uvicorn log through the standard library, in their own format.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import structlog

from server.core.paths import OPERATIONS
from server.core.request_state import RequestState
from server.core.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set structlog up for this process; calling it again replaces the set-up."""
    render: list[structlog.typing.Processor]
    if settings.log_format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        render = [
            _show_controls,
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=plain),
        ]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=_LossyLogger,
        cache_logger_on_first_use=False,
    )


class _LossyLogger:
    """Prints lines on standard output. One that cannot be printed, on a full disk or into a closed pipe, is lost, and
    not the request that it is of."""

    def __init__(self, *_names: object) -> None:
        pass

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            print(line, flush=True)

    debug = info = warning = error = critical = msg


def _show_controls(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Characters that a terminal acts on, or that hide others, as their codes: paths are whatever clients sent."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in value)
    return event


def log_request(state: RequestState) -> None:
    """Log a request that has ended; probes and what was routine only at level debug.

    `status` is None when the client left before the response began, `adapter` None for the base model, `tenant` None
    for a request without a valid key; `broke_off` is there only for a stream that ended in an error.
    """
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    log = logger.debug if state.routine or state.path in OPERATIONS else logger.info
    principal = state.principal
    log(
        "request",
        method=state.method,
        path=state.path,
        status=state.status,
        duration_ms=round(state.seconds * 1000, 1),
        adapter=state.adapter,
        # They are in the log's context only within the middleware that checks keys.
        tenant=principal and principal.tenant.name,
        key_id=principal and principal.key_id,
        **({"broke_off": True} if state.broke_off else {}),
    )
