"""From JSON to a grader: `parse_spec` checks a definition, `GraderTools.build` makes the grader.

What graders need from outside (a judge, a sandbox, processes for mathematics) is handed in. A kind whose tool is
missing is refused when the grader is defined, not when the first completion is graded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import openai
from pydantic import ValidationError

from server.core.error_responses import validation_error
from server.core.errors import BadRequest, Unavailable, quoted
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import NotAllowed
from server.training.graders.endpoint import EndpointGrader, EndpointSpec
from server.training.graders.environment import EnvironmentReward, EnvironmentRewardSpec
from server.training.graders.grade import Grader
from server.training.graders.grader_thread import GraderThread, T, Ts
from server.training.graders.judge import OWN_JUDGE, JudgeSpec
from server.training.graders.label_model import LabelModel, LabelModelSpec
from server.training.graders.math_grader import EQUALITY, MathGrader, MathSpec, math_of_string_check
from server.training.graders.math_pool import MathPool
from server.training.graders.multi import MAX_GRADERS, TAKEN_NAMES, Multi, MultiSpec
from server.training.graders.python_grader import PythonGrader, PythonSpec
from server.training.graders.sandbox import IsolationUnavailable, Sandbox, SandboxBusy, SandboxedCodeError
from server.training.graders.score_model import ScoreModel, ScoreModelSpec
from server.training.graders.spec import GraderSpec
from server.training.graders.string_check import StringCheck, StringCheckSpec
from server.training.graders.text_similarity import TextSimilarity, TextSimilaritySpec

SPECS: Mapping[str, type[GraderSpec]] = MappingProxyType(
    {
        "string_check": StringCheckSpec,
        "text_similarity": TextSimilaritySpec,
        "math": MathSpec,
        "python": PythonSpec,
        "score_model": ScoreModelSpec,
        "label_model": LabelModelSpec,
        "endpoint": EndpointSpec,
        "environment": EnvironmentRewardSpec,
        "multi": MultiSpec,
    }
)


@dataclass(frozen=True, slots=True)
class GraderTools:
    """What graders need from outside. No judge: none that ask a model. No sandbox, no endpoint client: none of those.

    judge_is_this_server: its requests are then sent for the tenant whose completions are graded, with low priority.
    tenant: whose graders these build; what all tenants share is used in its turn.
    """

    math: MathPool
    judge: openai.AsyncOpenAI | None = None
    sandbox: Sandbox | None = None
    endpoints: EndpointClient | None = None
    judge_is_this_server: bool = False
    tenant: str = ""
    thread: GraderThread = field(default_factory=GraderThread)

    def on_behalf_of(self, tenant: str, headers: Mapping[str, str]) -> GraderTools:
        """These tools for `tenant`, with `headers` on requests to a judge that is this server; others never do."""
        judge = self.judge
        if judge is not None and self.judge_is_this_server:
            judge = judge.with_options(default_headers=headers)
        return replace(self, judge=judge, tenant=tenant)

    async def in_thread(self, work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """What `work` returns or raises, done in the thread of the graders, in the tenant's turn."""
        return await self.thread.run(self.tenant, work, *args)

    def build(self, spec: GraderSpec, param: str = "grader") -> Grader:
        """The grader that `spec` defines. Raises BadRequest when this server has no tool for it."""
        match spec:
            case StringCheckSpec():
                return StringCheck(spec, self.in_thread)
            case TextSimilaritySpec():
                return TextSimilarity(spec, self.in_thread)
            case MathSpec():
                return MathGrader(spec, self.math, self.tenant, self.in_thread)
            case PythonSpec():
                if self.sandbox is None:
                    raise _unavailable(
                        "python graders are off on this server; its operator can set TINYLORA_PYTHON_GRADERS", param
                    )
                return PythonGrader(spec, self.sandbox, self.tenant)
            case ScoreModelSpec() | LabelModelSpec():
                if self.judge is None:
                    raise _unavailable(f"this server has no judge for {spec.type} graders", param)
                params = OWN_JUDGE if self.judge_is_this_server else {}
                if isinstance(spec, LabelModelSpec):
                    return LabelModel(spec, self.judge, params, self.in_thread)
                return ScoreModel(spec, self.judge, params, self.in_thread)
            case EndpointSpec():
                return EndpointGrader(spec, self.endpoints_for(spec.url, param), tenant=self.tenant)
            case EnvironmentRewardSpec():
                return EnvironmentReward(spec)
            case MultiSpec():
                parts = {name: self.build(part, f"{param}.graders.{name}") for name, part in spec.graders.items()}
                return Multi(spec, parts)
        raise AssertionError(f"no such kind of grader: {spec.type}")

    async def check(self, spec: GraderSpec, param: str = "grader") -> None:
        """Check all that can be checked without a row; python source is compiled in the sandbox.

        Raises BadRequest, or Unavailable when this machine has too much to do to find out.
        """
        await self.in_thread(self.build, spec, param)
        parts = spec.graders if isinstance(spec, MultiSpec) else {}
        named = {f"{param}.graders.{name}": part for name, part in parts.items()} or {param: spec}
        for where, part in named.items():
            if isinstance(part, PythonSpec) and self.sandbox is not None:
                await self._check_source(part, self.sandbox, where)

    async def _check_source(self, spec: PythonSpec, sandbox: Sandbox, param: str) -> None:
        try:
            await sandbox.check(spec.source, self.tenant)
        except SandboxedCodeError as error:
            raise BadRequest(f"{param}.source: {error.message}", param=f"{param}.source") from error
        except IsolationUnavailable as error:
            raise _unavailable(str(error), param) from error
        except SandboxBusy as error:
            raise Unavailable(f"{param} could not be tried: {error}; try again in a moment.") from error

    def endpoints_for(self, url: str, param: str) -> EndpointClient:
        """What asks the tenant's endpoint `url`, which `param` names. BadRequest when it would not be asked."""
        if self.endpoints is None:
            raise _unavailable("endpoints are off on this server; its operator can set TINYLORA_ENDPOINT_HOSTS", param)
        try:
            self.endpoints.check(url)
        except NotAllowed as error:
            raise BadRequest(f"{param}.url: {error}", param=f"{param}.url", code="endpoint_not_allowed") from error
        return self.endpoints

    async def close(self) -> None:
        """End processes, thread and connections. The judge's client is closed by whoever made it."""
        self.thread.close()
        await self.math.close()
        if self.endpoints is not None:
            await self.endpoints.close()


def parse_spec(value: object, param: str = "grader", *, is_new: bool = True) -> GraderSpec:
    """The definition of a grader, from JSON. is_new: not of a job that was made before.

    Raises BadRequest, naming the field at fault below `param`, also for a grader that gives every completion of a row
    the same score.
    """
    spec = _parse(value, param)
    if is_new and isinstance(spec, MultiSpec) and (taken := sorted(TAKEN_NAMES & spec.graders.keys())):
        raise BadRequest(
            f"{param}.graders: the grader {taken[0]!r} has the name of a number that jobs report; choose another",
            param=f"{param}.graders",
            code="invalid_value",
        )
    if not spec.reads_sample():
        if isinstance(spec, MultiSpec):
            what = "calculate_output names no grader that does; name one whose input has {{ sample.output_text }}"
        elif isinstance(spec, JudgeSpec):
            what = "put {{ sample.output_text }} into input, for the judge to read"
        else:
            what = "compare {{ sample.output_text }}, as input, with a reference such as {{ item.answer }}"
        raise BadRequest(
            f"{param}: its score does not depend on the sample, so all completions would get the same reward: {what}.",
            param=param,
            code="constant_grader",
        )
    return spec


def starts_process(spec: GraderSpec) -> bool:
    """Whether `GraderTools.check` starts one of the gateway's few processes for it."""
    return any(isinstance(part, PythonSpec) for part in spec.parts())


def _parse(value: object, param: str) -> GraderSpec:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{param}: expected an object, got {quoted(value)}", param=param, code="invalid_value")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in SPECS:
        raise BadRequest(
            f"{param}.type is {quoted(kind)}, expected one of {', '.join(SPECS)}",
            param=f"{param}.type",
            code="invalid_value" if "type" in value else "missing_required_parameter",
        )
    fields: Mapping[str, Any] = value
    if kind == "string_check" and EQUALITY in value:
        kind, fields = "math", _math_fields(value, param)
    if kind == "multi" and isinstance(parts := value.get("graders"), Mapping):
        fields = {**value, "graders": _parse_parts(parts, f"{param}.graders")}
    try:
        return SPECS[kind].model_validate(fields)
    except ValidationError as error:
        errors = [{**one, "loc": (*param.split("."), *one["loc"])} for one in error.errors(include_url=False)]
        raise validation_error(errors) from None


def _math_fields(value: Mapping[str, Any], param: str) -> dict[str, Any]:
    try:
        return math_of_string_check(value)
    except ValueError as error:
        raise BadRequest(
            f"{param}.{error} is {quoted(value.get(str(error)))}; the {EQUALITY} of a string_check is 'math', of the "
            "operation 'eq', or left out",
            param=f"{param}.{error}",
            code="invalid_value",
        ) from None


def _parse_parts(parts: Mapping[str, Any], param: str) -> dict[str, GraderSpec]:
    """The parts of a multi. Whether they are too many, or multis themselves, is known before any is parsed."""
    is_one = isinstance(parts.get("type"), str)
    if not is_one and len(parts) > MAX_GRADERS:
        raise BadRequest(
            f"{param} has {len(parts)} graders, expected at most {MAX_GRADERS}", param=param, code="invalid_value"
        )
    for part in [parts] if is_one else parts.values():
        if isinstance(part, Mapping) and part.get("type") == "multi":
            raise BadRequest(
                f"{param} has a grader that is itself a multi grader; write one formula over all parts",
                param=param,
                code="invalid_value",
            )
    if is_one:
        spec = _parse(parts, param)
        return {spec.name: spec}
    return {name: _parse(part, f"{param}.{name}") for name, part in parts.items()}


def _unavailable(message: str, param: str) -> BadRequest:
    return BadRequest(f"{param}: {message}", param=f"{param}.type", code="unsupported_grader")
