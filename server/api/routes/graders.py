"""/v1/fine_tuning/alpha/graders: try a grader on one sample, or have its definition checked, before a job is paid for.

What goes wrong while grading is part of the answer, counted as OpenAI does (reward 0 and a flag); `is_outage` says
what a job makes of it. A definition that no job could use is refused with a 400.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar, get_args

from fastapi import APIRouter, Depends, Request

from server.api.bodies.json_body import json_of, parsed
from server.api.deps import PrincipalDep, TrainingDep
from server.api.own_route import OwnRoute
from server.api.schemas.graders import (
    GraderRunMetadata,
    GraderRunRequest,
    GraderRunResponse,
    GraderValidateRequest,
    GraderValidateResponse,
)
from server.auth.middleware import key_of
from server.core.errors import Unavailable
from server.core.off_loop import off_loop
from server.core.principal import ORGANIZATION_HEADER
from server.core.request_body import read_json
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import ErrorKind, Grade, GraderError, Sample, grade_row
from server.training.graders.multi import MultiSpec
from server.training.graders.spec import GraderSpec, without_secrets

PREFIX = "/v1/fine_tuning/alpha/graders"
MAX_BODY_BYTES = 4 * 2**20
GRADING_TIMEOUT_S = 120
router = APIRouter(prefix=PREFIX, tags=["fine-tuning"], route_class=OwnRoute)

RequestT = TypeVar("RequestT", GraderRunRequest, GraderValidateRequest)


def _tools(request: Request, training: TrainingDep, principal: PrincipalDep) -> GraderTools:
    """Those of the app, which ask models on behalf of whoever asks here."""
    key, tenant = key_of(request.headers), request.headers.get(ORGANIZATION_HEADER)
    # In the spelling in which the openai client lets its own be replaced.
    asker = {"Authorization": key and f"Bearer {key}", ORGANIZATION_HEADER: tenant}
    headers = {name: value for name, value in asker.items() if value is not None}
    return training.graders.on_behalf_of(principal.tenant.name, headers)


async def _turn(training: TrainingDep, principal: PrincipalDep) -> AsyncIterator[None]:
    """Counts what a tenant tries, to its end. TooManyRequests."""
    async with training.grader_runs.counted(principal):
        yield


TurnDep = Annotated[None, Depends(_turn)]
ToolsDep = Annotated[GraderTools, Depends(_tools)]


@router.post("/run", openapi_extra=json_of(GraderRunRequest))
async def run_grader(request: Request, tools: ToolsDep, _turn: TurnDep) -> GraderRunResponse:
    """Grade one sample."""
    body, spec = await _read(request, GraderRunRequest)
    grader = await tools.in_thread(tools.build, spec)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(GRADING_TIMEOUT_S):
            grade = await grade_row(grader, Sample.of_text(body.model_sample), body.item or {})
    except TimeoutError:
        raise Unavailable(
            f"The grader gave no answer within {GRADING_TIMEOUT_S} s. If it asks a model, try again when that is idle.",
            code="grader_timeout",
        ) from None
    return _response(spec, grade, time.perf_counter() - started)


@router.post("/validate", openapi_extra=json_of(GraderValidateRequest))
async def validate_grader(request: Request, tools: ToolsDep, _turn: TurnDep) -> GraderValidateResponse:
    """Check a definition without grading anything."""
    _, spec = await _read(request, GraderValidateRequest)
    await tools.check(spec)
    return GraderValidateResponse(grader=without_secrets(spec.to_wire()))


async def _read(request: Request, model: type[RequestT]) -> tuple[RequestT, GraderSpec]:
    sent = await read_json(request.headers, request.receive, MAX_BODY_BYTES, "graders' MAX_BODY_BYTES")
    body = await parsed(sent, model)
    return body, await off_loop(len(sent), parse_spec, body.grader)


def _response(spec: GraderSpec, grade: Grade, seconds: float) -> GraderRunResponse:
    return GraderRunResponse(
        reward=grade.score,
        sub_rewards=dict(grade.parts),
        model_grader_token_usage_per_model=dict(grade.tokens),
        metadata=GraderRunMetadata(
            name=spec.name,
            type=spec.type,
            errors=_flags(grade.error),
            execution_time=seconds,
            scores=dict(grade.parts) if isinstance(spec, MultiSpec) else {spec.name: grade.score},
            token_usage=sum(grade.tokens.values()) or None,
            sampled_model_name=None,
            detail=dict(grade.detail),
            passes=grade.passes,
            is_outage=grade.error is not None and grade.error.is_outage,
        ),
    )


def _flags(error: GraderError | None) -> dict[str, Any]:
    flags: dict[str, Any] = {kind: error is not None and error.kind == kind for kind in get_args(ErrorKind)}
    details = {
        "model_grader_server_error_details": "model_grader_server_error",
        "python_grader_runtime_error_details": "python_grader_runtime_error",
        "python_grader_server_error_type": "python_grader_server_error",
    }
    for field, kind in details.items():
        flags[field] = error.message if error is not None and error.kind == kind else None
    # OpenAI's shape has no words for the other kinds.
    return flags | {"message": error and error.message}
