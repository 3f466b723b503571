"""An environment: the tenant's own HTTP service that answers the model's turns, and the grader of what it says of them.

    "environment": {"url": "https://...", "secret": "whsec_...", "max_turns": 4}      beside a job's grader
    "grader": {"type": "environment"}                                                  its reward is the score

What it is asked and what it answers is in server/training/worker/environment.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, StrictInt, ValidationError

from server.core.error_responses import validation_error
from server.core.errors import BadRequest
from server.training.graders.endpoint_fields import EndpointFields
from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.spec import GraderSpec, Name

MAX_TURNS = 64


class EnvironmentSpec(EndpointFields):
    """max_turns: most turns of the model in a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["endpoint"] = "endpoint"
    max_turns: StrictInt = Field(8, ge=1, le=MAX_TURNS)

    def to_wire(self) -> dict[str, Any]:
        """The definition as JSON, with defaults filled in."""
        return self.model_dump(mode="json", exclude_none=True)


class EnvironmentRewardSpec(GraderSpec):
    """The score is the reward that the environment gave with its last answer."""

    type: Literal["environment"]
    name: Name = "environment"

    def reads_sample(self) -> bool:
        """Always true: the environment was sent the conversation."""
        return True


class EnvironmentReward:
    """Takes the reward that the sample brings with it."""

    def __init__(self, spec: EnvironmentRewardSpec) -> None:
        self.name = spec.name

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The reward. GraderError when there is none, also where a limit of turns or tokens ended the conversation."""
        said: Mapping[str, Any] | None = sample.fields.get("environment")
        if said is None:
            raise GraderError("other_error", "there was no environment; it takes part in jobs that name one")
        if said["reward"] is None and said["done"]:
            raise GraderError(
                "environment_parse_error",
                'the environment ended the conversation without a reward; it answers {"done": true, "reward": number}',
            )
        if said["reward"] is None:
            raise GraderError(
                "environment_limit_error", "the limit of turns or of tokens came before the environment gave a reward"
            )
        return Grade(said["reward"])


def parse_environment(value: object, param: str) -> EnvironmentSpec:
    """The definition of an environment, from JSON. BadRequest, naming the field at fault below `param`."""
    try:
        return EnvironmentSpec.model_validate(value)
    except ValidationError as error:
        errors = [{**one, "loc": (*param.split("."), *one["loc"])} for one in error.errors(include_url=False)]
        raise validation_error(errors) from None


def check_has_environment(grader: GraderSpec, environment: EnvironmentSpec | None, param: str) -> None:
    """BadRequest when `grader` takes the reward of an environment, and the job has none."""
    if environment is None and any(isinstance(part, EnvironmentRewardSpec) for part in grader.parts()):
        raise BadRequest(
            f"{param}: the type environment takes the reward of the job's environment, and there is none; name it "
            f"beside the grader, as {param.removesuffix('grader')}environment",
            param=param,
            code="missing_environment",
        )
