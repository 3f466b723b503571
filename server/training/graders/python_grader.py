"""python: the tenant's own `grade(sample, item) -> float`, run in the sandbox and nowhere else.

The source is compiled inside the sandbox as well, because a compiler is attack surface. OpenAI's `image_tag` is
accepted and has no effect: there is one environment, Python's standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.sandbox import IsolationUnavailable, Sandbox, SandboxBusy, SandboxedCodeError
from server.training.graders.spec import GraderSpec, Name

MAX_SOURCE_CHARS = 256_000


class PythonSpec(GraderSpec):
    """OpenAI's PythonGrader."""

    type: Literal["python"]
    name: Name = "python"
    source: str = Field(min_length=1, max_length=MAX_SOURCE_CHARS)
    image_tag: str | None = Field(None, max_length=128)

    def reads_sample(self) -> bool:
        """Always true: the code is given the sample, and is not analyzed."""
        return True


class PythonGrader:
    """Runs the source in the sandbox, once per completion."""

    def __init__(self, spec: PythonSpec, sandbox: Sandbox, tenant: str = "") -> None:
        self.name = spec.name
        self._source = spec.source
        self._sandbox, self._tenant = sandbox, tenant

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The number that the source's `grade` returns; `detail` has what it printed and how it was isolated."""
        try:
            result = await self._sandbox.grade(self._source, sample.fields, item, self._tenant)
        except SandboxedCodeError as error:
            printed = f" (printed: {error.printed})" if error.printed else ""
            raise GraderError("python_grader_runtime_error", f"{error.message}{printed}") from error
        except (IsolationUnavailable, SandboxBusy) as error:
            raise GraderError("python_grader_server_error", str(error)) from error
        return Grade(result.score, detail={"printed": result.printed, "isolation": dict(result.isolation)})
