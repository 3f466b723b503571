"""/v1/worker: what training workers ask and report; server/training/jobs/protocol.py has the words.

Workers are the operator's and work for all tenants, so these paths take the scope admin. On a server without keys
anyone may be a worker.

What happens to a job is in `training.jobs.leases` and `training.jobs.progress`; its end is in the audit log of its
tenant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool

from server.api.bodies.json_body import json_of, parsed
from server.api.deps import AuthorDep, Gateway, GatewayDep, Training, TrainingDep
from server.api.own_route import OwnRoute
from server.api.writes import Answer, Author
from server.core.errors import BadRequest, Conflict, quoted
from server.core.ids import is_id
from server.core.principal import Tenant
from server.core.request_body import read_json
from server.core.request_state import state_of
from server.db.tables import TENANTS
from server.db.training_tables import JOBS
from server.training.jobs.leases import Leasing, claim
from server.training.jobs.lifecycle import PREFIX as JOB_PREFIX
from server.training.jobs.lifecycle import job_not_found
from server.training.jobs.progress import finish, report, validated
from server.training.jobs.protocol import (
    PROTOCOL,
    PROTOCOL_HEADER,
    PROTOCOL_MISMATCH,
    ClaimAnswer,
    ClaimRequest,
    FinishAnswer,
    FinishRequest,
    LeaseAnswer,
    MessageAnswer,
    MessageRequest,
    ReportRequest,
    ValidatedRequest,
)
from server.training.jobs.results import add_result_file, step_metrics, store_result

MAX_BODY_BYTES = 128 * 2**20


def _check_protocol(protocol: Annotated[str, Header(alias=PROTOCOL_HEADER)] = "1") -> None:
    if protocol != str(PROTOCOL):
        raise Conflict(
            f"The worker speaks version {quoted(protocol)} of workers' messages, and this server, tinylora-serve "
            f"{version('tinylora-serve')}, version {PROTOCOL}: run the same tinylora-serve for both. Until then the "
            "worker gets no jobs, and those that it has go on with another one.",
            param=PROTOCOL_HEADER,
            code=PROTOCOL_MISMATCH,
        )


router = APIRouter(prefix="/v1/worker", tags=["workers"], route_class=OwnRoute, dependencies=[Depends(_check_protocol)])

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=BaseModel)


@router.post("/claim", openapi_extra=json_of(ClaimRequest))
async def claim_jobs(request: Request, gateway: GatewayDep, training: TrainingDep) -> ClaimAnswer:
    """Renew leases, and take jobs if there is room for any."""
    body = await _read(request, ClaimRequest)
    if body.factors != gateway.engine.factors.digest:
        raise BadRequest(
            f"The worker trains {quoted(body.base_model)} with the factors {quoted(body.factors)}, this server has "
            f"{gateway.engine.factors.digest} of {gateway.engine.base_models[0]}; start the worker with the same "
            "model, and copy the server's factors file into `tinylora/` of the model's directory there, in place of "
            "its own, for another machine computes other factors, with the server's rank and kind "
            f"(TINYLORA_FACTORS_RANK={gateway.engine.factors.rank}, "
            f"TINYLORA_FACTORS_KIND={gateway.engine.factors.kind}).",
            param="factors",
            code="factors_mismatch",
        )
    leasing = Leasing(
        gateway.database,
        gateway.settings.worker_lease_s,
        gateway.engine.base_models[0],
        gateway.seals,
        training.unreadable,
        training.stranded,
    )
    answer = await _transact(gateway, lambda connection: claim(leasing, connection, body))
    state_of(request.scope).routine = not answer.jobs
    told = {"reasoning": gateway.engine.has_reasoning, "max_step_tokens": gateway.settings.max_step_tokens}
    return answer.model_copy(update=told)


@router.post("/jobs/{job_id}/validated", openapi_extra=json_of(ValidatedRequest))
async def report_validated(job_id: str, request: Request, gateway: GatewayDep) -> LeaseAnswer:
    """The job's files can be used."""
    body = await _read(request, ValidatedRequest)
    return await _transact(gateway, lambda connection: validated(connection, job_id, body))


@router.post("/jobs/{job_id}/report", openapi_extra=json_of(ReportRequest))
async def report_step(job_id: str, request: Request, gateway: GatewayDep, training: TrainingDep) -> LeaseAnswer:
    """A step was done."""
    body = await _read(request, ReportRequest)
    lease_s, most = gateway.settings.worker_lease_s, gateway.settings.max_job_sample_bytes
    answer, is_news = await _transact(
        gateway, lambda connection: report(gateway.database, connection, job_id, body, lease_s, most)
    )
    if is_news:
        training.metrics.observe_step(body.trained_tokens, body.seconds)
    return answer


@router.post("/jobs/{job_id}/finish", openapi_extra=json_of(FinishRequest))
async def finish_job(
    job_id: str, request: Request, gateway: GatewayDep, training: TrainingDep, author: AuthorDep
) -> FinishAnswer:
    """The worker's part in a job is over."""
    body = await _read(request, FinishRequest)
    answer, is_news = await run_in_threadpool(_finish, gateway, training, author, job_id, body)
    if is_news and answer.status in ("succeeded", "failed"):
        training.metrics.observe_finished(answer.status)
    return answer


@router.post("/message", openapi_extra=json_of(MessageRequest))
async def read_message(request: Request, gateway: GatewayDep) -> MessageAnswer:
    """The message that tokens are."""
    body = await _read(request, MessageRequest)
    try:
        return MessageAnswer(
            message=await gateway.engine.message_of(body.tokens, body.tools, body.chat_template_kwargs)
        )
    except ValueError as error:
        raise BadRequest(
            f"tokens can be read as no message ({error!s:.200}); send those that the model generated, and the tools "
            "that it was offered",
            param="tokens",
            code="invalid_value",
        ) from error


def _finish(
    gateway: Gateway, training: Training, author: Author, job_id: str, body: FinishRequest
) -> tuple[FinishAnswer, bool]:
    with gateway.database.read() as connection:
        tenant = _tenant_of(connection, job_id)
        content = step_metrics(connection, job_id) if body.status == "succeeded" else None
    result = None if content is None else store_result(training.files, tenant.id, content)

    def do(connection: Connection) -> Answer:
        finished, is_news = finish(gateway.database, connection, job_id, body)
        if result is not None and is_news and finished.status == "succeeded":
            add_result_file(connection, tenant.id, job_id, result)
        detail = {"worker": body.worker, **finished.model_dump()}
        return Answer(finished.model_dump(), detail=detail, is_news=is_news)

    # For whom it was done; the call itself may be sent again without a key.
    author = replace(author, principal=replace(author.principal, tenant=tenant), idempotency_key=None)
    try:
        answer = gateway.writes.run(author, f"job.{body.status}", job_id, do)
    except BadRequest:  # The lease was lost meanwhile. Behind an outage of the database the row may be there.
        if result is not None:
            training.files.delete(result.location)
        raise
    finished = FinishAnswer.model_validate(answer.body)
    if result is not None and not (answer.is_news and finished.status == "succeeded"):
        training.files.delete(result.location)
    return finished, answer.is_news


def _tenant_of(connection: Connection, job_id: str) -> Tenant:
    if not is_id(job_id, JOB_PREFIX):
        raise job_not_found(job_id)
    row = connection.execute(
        sa.select(TENANTS.c.id, TENANTS.c.name).join(JOBS, JOBS.c.tenant_id == TENANTS.c.id).where(JOBS.c.id == job_id)
    ).one_or_none()
    if row is None:
        raise job_not_found(job_id)
    return Tenant(row.id, row.name)


async def _transact(gateway: Gateway, do: Callable[[Connection], T]) -> T:
    return await run_in_threadpool(gateway.database.transact, do)


async def _read(request: Request, model: type[RequestT]) -> RequestT:
    body = await read_json(request.headers, request.receive, MAX_BODY_BYTES, "workers' MAX_BODY_BYTES")
    return await parsed(body, model)
