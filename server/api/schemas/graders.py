"""/v1/fine_tuning/alpha/graders on the wire, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class GraderRunRequest(BaseModel):
    """`model_sample` is the completion's text; `item` the fields of the row that it answers."""

    model_config = ConfigDict(extra="forbid")

    grader: dict[str, Any]
    model_sample: str
    item: dict[str, Any] | None = None


class GraderValidateRequest(BaseModel):
    """The definition to check."""

    model_config = ConfigDict(extra="forbid")

    grader: dict[str, Any]


class GraderRunMetadata(BaseModel):
    """`scores` by name of grader; `errors` has OpenAI's flags.

    Ours: `detail` is how the score came about; `is_outage`, whether the grader itself failed, so that a job counts no
    reward; where it could not grade for another reason, a job counts the lowest.
    """

    name: str
    type: str
    errors: dict[str, Any]
    execution_time: float
    scores: dict[str, float]
    token_usage: int | None
    sampled_model_name: str | None
    detail: dict[str, Any]
    passes: bool | None
    is_outage: bool


class GraderRunResponse(BaseModel):
    """`reward` is 0 when the grader could not grade; then `metadata.errors` says why."""

    model_config = ConfigDict(protected_namespaces=())

    reward: float
    metadata: GraderRunMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]


class GraderValidateResponse(BaseModel):
    """The grader, with defaults filled in."""

    grader: dict[str, Any] = Field(examples=[{"type": "string_check", "name": "exact"}])
