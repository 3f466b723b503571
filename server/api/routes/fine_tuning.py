"""/v1/fine_tuning/jobs, in OpenAI's shape: list, look up, pause, resume and cancel jobs; their events and checkpoints.

What becomes of a job is in `server.training.jobs.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy.engine import Connection, Row

from server.api.deps import AuthorDep, Gateway, GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.fine_tuning import (
    CheckpointList,
    CheckpointObject,
    EventList,
    EventObject,
    JobList,
    JobObject,
    JobsQuery,
)
from server.api.schemas.pages import NoQuery, PageQuery
from server.api.writes import Answer, Author
from server.training.jobs.checkpoints import list_checkpoints
from server.training.jobs.events import list_events
from server.training.jobs.lifecycle import cancel_job, get_job, list_jobs, pause_job, resume_job

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=OwnRoute)


@router.get("")
def list_all(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[JobsQuery, Query()]) -> JobList:
    """The tenant's jobs, newest first."""
    with gateway.database.read() as connection:
        rows, has_more = list_jobs(
            connection, principal.tenant.id, after=query.after, limit=query.limit, metadata=query.filters()
        )
    return JobList(data=[JobObject.of(row, principal.tenant.name) for row in rows], has_more=has_more)


@router.get("/{job_id}")
def retrieve(
    job_id: str, gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]
) -> JobObject:
    """One job."""
    with gateway.database.read() as connection:
        return JobObject.of(get_job(connection, principal.tenant.id, job_id), principal.tenant.name)


@router.post("/{job_id}/cancel", response_model=JobObject)
def cancel(job_id: str, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]) -> Response:
    """End a job; what it has published stays, and its last step is published, too."""
    return _change(gateway, author, "job.cancel", job_id, partial(cancel_job, gateway.database))


@router.post("/{job_id}/pause", response_model=JobObject)
def pause(job_id: str, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]) -> Response:
    """Stop a job behind its current step, until it is resumed."""
    return _change(gateway, author, "job.pause", job_id, pause_job)


@router.post("/{job_id}/resume", response_model=JobObject)
def resume(job_id: str, gateway: GatewayDep, author: AuthorDep, _query: Annotated[NoQuery, Query()]) -> Response:
    """Go on with a job that was paused."""
    return _change(gateway, author, "job.resume", job_id, resume_job)


@router.get("/{job_id}/events")
def events(
    job_id: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[PageQuery, Query()]
) -> EventList:
    """What happened to a job, newest first."""
    with gateway.database.read() as connection:
        job = get_job(connection, principal.tenant.id, job_id)
        rows, has_more = list_events(connection, job.id, after=query.after, limit=query.limit)
    return EventList(data=[EventObject.of(row) for row in rows], has_more=has_more)


@router.get("/{job_id}/checkpoints")
def checkpoints(
    job_id: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[PageQuery, Query()]
) -> CheckpointList:
    """The checkpoints of a job that can be served, newest first."""
    with gateway.database.read() as connection:
        job = get_job(connection, principal.tenant.id, job_id)
        rows, has_more = list_checkpoints(connection, job.id, after=query.after, limit=query.limit)
    data = [CheckpointObject.of(row) for row in rows]
    return CheckpointList.page(data, has_more)


def _change(
    gateway: Gateway,
    author: Author,
    action: str,
    job_id: str,
    change: Callable[[Connection, int, str], Row[Any]],
) -> Response:
    def do(connection: Connection) -> Answer:
        row = change(connection, author.principal.tenant.id, job_id)
        return Answer(JobObject.of(row, author.principal.tenant.name).model_dump())

    return gateway.writes.run(author, action, job_id, do).response()
