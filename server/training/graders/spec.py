"""What every grader's wire form has in common.

Design decision: unknown fields are refused. A reward that silently ignores half of its definition trains for hours
towards something else.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.training.graders.template import Template, Variable

Name = Annotated[str, Field(min_length=1, max_length=128)]


class GraderSpec(BaseModel):
    """The wire form of a grader, as OpenAI's API has it; `type` and a default `name` come with each kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: str
    name: Name

    def templates(self) -> tuple[str, ...]:
        """Its texts with variables."""
        return ()

    def item_variables(self) -> frozenset[Variable]:
        """What every row of the data must have for it."""
        return frozenset[Variable]().union(*(Template.parse(text).item_variables for text in self.templates()))

    def reads_sample(self) -> bool:
        """Whether its score can depend on the completion; what cannot is no reward."""
        return any(Template.parse(text).reads_sample for text in self.templates())

    def to_wire(self) -> dict[str, Any]:
        """The grader as JSON, with what the server filled in."""
        return self.model_dump(mode="json", exclude_none=True)
