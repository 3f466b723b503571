"""The wire objects of /v1/fine_tuning/jobs, as OpenAI has them.

Ours beside theirs: `tinylora` on a job (its settings, see job_config), `step` and `total_steps`; the status "paused",
which their routes know and their types forgot; and metrics of checkpoints under whatever names a worker reports.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from sqlalchemy.engine import Row

from server.api.schemas.metadata import PrintableMetadata
from server.api.schemas.pages import IdPage, PageQuery, check_filter_count, metadata_filters
from server.core.clock import now
from server.training.graders.endpoint_fields import HIDDEN
from server.training.jobs.config import JOB_CONFIG
from server.training.jobs.events import event_id
from server.training.jobs.method_secrets import method_with_secrets
from server.training.jobs.options import MethodParam, SupervisedHyperparameters, shown_hyperparameters

WITHOUT_METADATA = (("metadata", "null"), ("metadata", ""))


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WandbIntegration(_Request):
    """Where in Weights & Biases to write a job's metrics."""

    project: str = Field(min_length=1, max_length=128)
    name: str | None = Field(None, max_length=128)
    entity: str | None = Field(None, max_length=128)
    tags: list[str] = Field([], max_length=32)


class Integration(_Request):
    """The one kind there is."""

    type: Literal["wandb"]
    wandb: WandbIntegration


class JobCreate(_Request):
    """A new job. `tinylora` holds the settings that OpenAI has no names for, see job_config.

    `model` is a base model, or an adapter to go on from. `hyperparameters` is the older place of those of supervised
    training.
    """

    model: str = Field(min_length=1, max_length=255)
    training_file: str = Field(max_length=255)
    validation_file: str | None = Field(None, max_length=255)
    method: MethodParam | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    suffix: str | None = Field(None, max_length=64)
    seed: StrictInt | None = Field(None, ge=0, le=2**31 - 1)
    metadata: PrintableMetadata = None
    integrations: list[Integration] | None = Field(None, max_length=1)
    tinylora: dict[str, Any] | None = None


class JobObject(BaseModel):
    """A job. `fine_tuned_model` is null until it has succeeded; then it is a `model` for chat."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    metadata: dict[str, str]
    integrations: list[dict[str, Any]]
    error: dict[str, Any] | None
    step: int | None
    total_steps: int | None
    tinylora: dict[str, Any]

    @classmethod
    def of(cls, row: Row[Any], tenant: str) -> JobObject:
        """The wire form of a row of JOBS of the tenant with this name; another version's settings are as stored."""
        hyperparameters: dict[str, Any] = {}
        try:
            config = JOB_CONFIG.validate_json(row.config)
            tinylora = config.model_dump(exclude={"method"})
            hyperparameters = shown_hyperparameters(config) if config.method == "supervised" else {}
        except ValidationError:
            tinylora = {name: value for name, value in json.loads(row.config).items() if name != "method"}
        same = ["id", "created_at", "started_at", "finished_at", "model", "fine_tuned_model", "status"]
        same += ["training_file", "validation_file", "seed", "step", "total_steps"]
        return cls(
            **{name: getattr(row, name) for name in same},
            organization_id=tenant,
            estimated_finish=_estimated_finish(row),
            result_files=json.loads(row.result_files),
            trained_tokens=None if row.started_at is None else row.trained_tokens,
            hyperparameters=hyperparameters,
            method=method_with_secrets(json.loads(row.method), lambda _: HIDDEN),
            metadata=json.loads(row.metadata),
            integrations=json.loads(row.integrations),
            error=None if row.error is None else json.loads(row.error),
            tinylora=tinylora,
        )


class JobList(BaseModel):
    """A page of jobs, newest first; ask for the next one with `after` = the last one's id.

    It ends before `limit` where the jobs' definitions have some MiB.
    """

    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventObject(BaseModel):
    """Something that happened to a job. Of type "metrics" it is a step; step 0 is the evaluation before training.

    `data` of a step: OpenAI's `scores`, `usage`, `errors` (counts by kind) and `timing` (seconds), and numbers by name,
    of which each is there where it could be measured:

    train_reward_mean, train_reward_error: over the step's completions; its standard error, over prompts.
    train_<part>: the mean score of a part of a multi grader, by the part's name.
    valid_reward_mean, valid_reward_error, valid_<part>: of the held-out rows, in steps with an evaluation.
    valid_reward_gain, valid_reward_gain_error: mean difference to before training, row by row; its standard error.
    reward_std: of all rewards. flat_share: of prompts, those whose completions all got the same reward.
    completion_tokens_mean; truncated_share, grader_error_share: of completions, those ended by the limit of tokens, and
    those that the grader could not grade. no_answer_share: those that were not cut off and in which a math grader found
    no answer. turns_mean: of conversations with an environment. All tokens are the model's.
    entropy: nats per token. kl: from the base model, where kl_coef asks for it. ratio, clip_share: of probabilities to
    the policy at the start of the step; tokens whose gradient was clipped away: 1 and 0, as a step is one update.
    importance: mean correction for logprob_gap_mean and logprob_gap_max, which are between engine and worker, nats;
    they are known at temperature 1 and without response_format, or with max_off_policy_steps.
    step_kl: of the model before the update from that behind it, nats per token, on some of the completions.
    v_norm, v_max_abs, v_distance: L2 norm and largest number of the vector; its distance from the adapter at its start.
    learning_rate, gradient_norm, skipped_groups, train_loss, valid_loss, train_mean_token_accuracy.
    train_loss_error: standard error of a supervised train_loss, over rows.

    `data` of a warning about the numbers: `warning`, the name of what is wrong, and `step`.
    """

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: Any

    @classmethod
    def of(cls, row: Row[Any]) -> EventObject:
        return cls(
            id=event_id(row.id),
            created_at=row.created_at,
            level=row.level,
            message=row.message,
            type=row.type,
            data=json.loads(row.data),
        )


class EventList(BaseModel):
    """A page of events, newest first."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class CheckpointObject(BaseModel):
    """A step whose vector can be served as `fine_tuned_model_checkpoint`."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, row: Row[Any]) -> CheckpointObject:
        return cls(
            id=row.id,
            created_at=row.created_at,
            fine_tuned_model_checkpoint=row.adapter_name,
            fine_tuning_job_id=row.job_id,
            step_number=row.step,
            metrics={"step": row.step, **json.loads(row.metrics)},
        )


class CheckpointList(IdPage):
    """A page of checkpoints, newest first."""

    data: list[CheckpointObject]


class JobsQuery(PageQuery):
    """Which jobs: with `metadata[key]=value`, or with `metadata=null` those without any."""

    model_config = ConfigDict(extra="allow")

    def filters(self) -> dict[str, str] | None:
        """The metadata to search for; None for jobs without any. BadRequest for a parameter that is not known."""
        parameters = list((self.model_extra or {}).items())
        before = list(takewhile(lambda parameter: parameter not in WITHOUT_METADATA, parameters))
        wanted = metadata_filters(before, "after, limit")
        return None if len(before) < len(parameters) else check_filter_count(wanted)


def _estimated_finish(row: Row[Any]) -> int | None:
    """As if the rest went as fast as what was done."""
    if row.status != "running" or not row.step or row.total_steps is None or row.started_at is None:
        return None
    at, started_at, step = now(), int(row.started_at), int(row.step)
    return at + (at - started_at) * max(0, int(row.total_steps) - step) // step
