"""The wire objects of /v1/fine_tuning/jobs/{job_id}/samples, which OpenAI does not have."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ConfigDict, Field
from sqlalchemy.engine import Row

from server.api.schemas.pages import IdPage, PageQuery
from server.training.jobs.protocol import MAX_STEP
from server.training.jobs.sampled_group import SampledGroup
from server.training.jobs.samples import sample_id


class SampleObject(SampledGroup):
    """A prompt of a step, and what the vector of that step answered, with the reward of every completion.

    A sample of split "train" was sampled with the vector from before the step, one of "valid" with that behind it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    object: Literal["fine_tuning.job.sample"] = "fine_tuning.job.sample"
    created_at: int
    fine_tuning_job_id: str
    step: int

    @classmethod
    def of(cls, row: Row[Any]) -> SampleObject:
        return cls(
            **json.loads(row.data),
            id=sample_id(row.step, row.id),
            created_at=row.created_at,
            fine_tuning_job_id=row.job_id,
            step=row.step,
            split=row.split,
        )


class SampleList(IdPage):
    """A page of samples."""

    data: list[SampleObject]


class SamplesQuery(PageQuery):
    """Which samples: all, or those of one `step`; `order` is that of the steps."""

    step: int | None = Field(None, ge=0, le=MAX_STEP)
    order: Literal["asc", "desc"] = "desc"
