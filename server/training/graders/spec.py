"""The fields that all graders have in JSON.

Unknown fields are refused: a reward that silently ignores half of its definition would train for hours towards
something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.training.graders.endpoint_fields import HIDDEN
from server.training.graders.template import Template, Variable
from server.training.jobs.method_secrets import with_secrets

Name = Annotated[str, Field(min_length=1, max_length=128)]


class GraderSpec(BaseModel):
    """The definition of a grader in JSON, as in OpenAI's API; each kind has its `type` and a default `name`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: str
    name: Name

    def templates(self) -> tuple[str, ...]:
        """Its texts that have variables."""
        return ()

    def parts(self) -> tuple[GraderSpec, ...]:
        """The graders whose scores it is made of: itself, where it is not a formula over others."""
        return (self,)

    def item_variables(self) -> frozenset[Variable]:
        """The variables that every row of the data must have."""
        return frozenset[Variable]().union(*(Template.parse(text).item_variables for text in self.templates()))

    def reads_sample(self) -> bool:
        """Whether its score can depend on the completion. If not, it is no reward."""
        return any(Template.parse(text).reads_sample for text in self.templates())

    def to_wire(self) -> dict[str, Any]:
        """The definition as JSON, with defaults filled in."""
        return self.model_dump(mode="json", exclude_none=True)


def without_secrets(grader: Mapping[str, Any]) -> dict[str, Any]:
    """The definition of a grader or an environment in JSON as it is shown: what only a tenant's endpoint may know is
    HIDDEN."""
    return with_secrets(grader, lambda _: HIDDEN)
