"""/v1/fine_tuning/jobs/{job_id}/samples: what a job's vector said, step by step, and what that was worth.

What is kept is in `server.training.jobs.samples`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.deps import GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.job_samples import SampleList, SampleObject, SamplesQuery
from server.training.jobs.lifecycle import get_job
from server.training.jobs.samples import list_samples

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=OwnRoute)


@router.get("/{job_id}/samples")
def samples(
    job_id: str, gateway: GatewayDep, principal: PrincipalDep, query: Annotated[SamplesQuery, Query()]
) -> SampleList:
    """Samples of a job's steps, the newest step first, and in a step the prompts first that tell most."""
    with gateway.database.read() as connection:
        job = get_job(connection, principal.tenant.id, job_id)
        rows, has_more = list_samples(
            connection, job.id, step=query.step, after=query.after, limit=query.limit, order=query.order
        )
    return SampleList.page([SampleObject.of(row) for row in rows], has_more)
