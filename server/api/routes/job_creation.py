"""POST /v1/fine_tuning/jobs, in OpenAI's shape.

Whatever can be known of a job without reading its files is checked before its row is made; a worker checks the files.
What may be set is in `server.training.jobs.options`.
"""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool

from server.api.bodies.json_body import json_of, parsed
from server.api.deps import AuthorDep, Gateway, GatewayDep, Training, TrainingDep
from server.api.own_route import OwnRoute
from server.api.schemas.fine_tuning import JobCreate, JobObject
from server.api.schemas.pages import NoQuery
from server.api.writes import Answer, Author, fingerprint_of
from server.core.errors import BadRequest, NotFound
from server.core.ids import new_id
from server.core.names import parse_reference
from server.core.off_loop import off_loop
from server.core.request_body import read_json
from server.engine.grammar import grammars_of
from server.inference.adapter_field import model_not_found
from server.limits.spending import check_month
from server.registry.versions import StoredVersion
from server.training.graders.build import parse_spec, starts_process
from server.training.graders.environment import check_has_environment, parse_environment
from server.training.jobs.config import TrainingConfig
from server.training.jobs.events import add_event
from server.training.jobs.lifecycle import PREFIX as ID_PREFIX
from server.training.jobs.lifecycle import NewJob, create_job
from server.training.jobs.method_secrets import method_with_secrets
from server.training.jobs.names import result_name
from server.training.jobs.options import (
    PARAM,
    MethodParam,
    RewardedMethod,
    SupervisedMethod,
    resolve_config,
    shown_hyperparameters,
)

MAX_BODY_BYTES = 4 * 2**20
# Settings of GRPO's loss that matter from the second update with the same completions on.
WITHOUT_EFFECT = frozenset({"clip_low", "clip_high"})
ONE_UPDATE = (
    "a step samples for one update, at which the probability ratio is 1, so nothing is clipped, whatever they are. "
    "What bounds a step is the learning_rate, kl_coef or max_abs_v."
)
router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=OwnRoute)


@router.post("", response_model=JobObject, openapi_extra=json_of(JobCreate))
async def create(
    request: Request,
    gateway: GatewayDep,
    author: AuthorDep,
    training: TrainingDep,
    _query: Annotated[NoQuery, Query()],
) -> Response:
    """Train a vector."""
    check_month(author.principal)
    sent = await read_json(request.headers, request.receive, MAX_BODY_BYTES, "jobs' MAX_BODY_BYTES")
    body = await parsed(sent, JobCreate)
    job = await _checked(body, len(sent), gateway, author, training)

    def do(connection: Connection) -> Answer:
        most = gateway.settings.max_tenant_jobs
        row = create_job(connection, author.principal.tenant.id, author.principal.key_id, job, most)
        if job.config.method not in training.own_methods:
            message = (
                f"This server starts no worker for jobs of method {job.config.method}, so this one waits for one that "
                "its operator starts (tinylora worker)."
            )
            add_event(connection, job.id, message)
        if idle := sorted(WITHOUT_EFFECT & (body.tinylora or {}).keys()):
            add_event(connection, job.id, f"{PARAM} has {' and '.join(idle)}: {ONE_UPDATE}", level="warn")
        shown = JobObject.of(row, author.principal.tenant.name).model_dump()
        return Answer(shown, detail={"job": job.id, "model": job.model})

    fingerprint = fingerprint_of(request, sent)
    # Of no job in particular: the same request again comes with another id.
    answer = await run_in_threadpool(gateway.writes.run, author, "job.create", "", do, fingerprint=fingerprint)
    return answer.response()


async def _checked(body: JobCreate, size: int, gateway: Gateway, author: Author, training: Training) -> NewJob:
    """The job that `body`, of `size` bytes, asks for."""
    method = _method(body)
    by_itself = (None, 0, TrainingConfig.model_fields["validation_fraction"].default)
    if body.validation_file is not None and (body.tinylora or {}).get("validation_fraction") not in by_itself:
        raise BadRequest(
            f"{PARAM}.validation_fraction holds rows of the training file out where there is no validation file, and "
            "validation_file is given; leave out one of them",
            param=f"{PARAM}.validation_fraction",
            code="invalid_value",
        )
    init = await _init(body.model, gateway, author)
    recipe = None if init is None else (init.id, init.adapter.recipe)
    config = resolve_config(
        method,
        body.tinylora or {},
        gateway.engine,
        recipe,
        gateway.settings.max_step_tokens,
        has_file=body.validation_file is not None,
    )
    # Its rollouts would be refused one by one.
    gateway.recipes.check(config.parsed_recipe, f"{PARAM}.recipe" if init is None else "model")
    part = method.given
    given = None if part is None else part.hyperparameters
    shown: dict[str, Any] = {"hyperparameters": shown_hyperparameters(config, given)}
    if isinstance(part, RewardedMethod):
        param = f"method.{method.type}.grader"
        spec = await off_loop(size, parse_spec, part.grader, param)
        tools = training.graders.on_behalf_of(author.principal.tenant.name, {})
        async with training.grader_runs.counted(author.principal) if starts_process(spec) else nullcontext():
            await tools.check(spec, param)
        shown["grader"] = spec.to_wire()
        environment = None
        if part.environment is not None:
            environment = parse_environment(part.environment, where := f"method.{method.type}.environment")
            tools.endpoints_for(environment.url, where)
            shown["environment"] = environment.to_wire()
        check_has_environment(spec, environment, param)
        if part.response_format is not None:
            await _check_response_format(part.response_format, size, gateway, author, f"method.{method.type}")
            shown["response_format"] = part.response_format
    job_id = new_id(ID_PREFIX)
    base_model = body.model if init is None else gateway.engine.base_models[0]
    return NewJob(
        id=job_id,
        model=body.model,
        factors=gateway.engine.factors.digest,
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=method_with_secrets({"type": method.type, method.type: shown}, gateway.seals.seal),
        config=config,
        init_vector=None if init is None else init.adapter.vector().numpy().tobytes(),
        seed=secrets.randbits(31) if body.seed is None else body.seed,
        metadata=body.metadata or {},
        integrations=[integration.model_dump(exclude_none=True) for integration in body.integrations or ()],
        adapter_name=result_name(base_model, author.principal.tenant.name, body.suffix, job_id),
    )


def _method(body: JobCreate) -> MethodParam:
    """How to train, with what was left out or given in its older place."""
    method = body.method or MethodParam(type="supervised")
    if method.type == "dpo":
        raise BadRequest(
            "method.type is 'dpo', which this server does not do; train on preferences with 'reinforcement' and a "
            "grader, or on the chosen answers with 'supervised'",
            param="method.type",
            code="unsupported_method",
        )
    for other in {"supervised", "reinforcement", "evolution", "dpo"} - {method.type}:
        if getattr(method, other) is not None:
            raise BadRequest(
                f"method.{other} is given and method.type is {method.type!r}; leave out one of them",
                param=f"method.{other}",
                code="invalid_value",
            )
    if method.type != "supervised":
        if method.given is None:
            raise BadRequest(
                f"method.{method.type} is missing, expected an object with a grader",
                param=f"method.{method.type}",
                code="missing_required_parameter",
            )
        if body.hyperparameters is not None:
            raise _misplaced(f"method.{method.type}.hyperparameters")
        return method
    supervised = method.supervised or SupervisedMethod()
    if body.hyperparameters is not None:
        if supervised.hyperparameters is not None:
            raise _misplaced("method.supervised.hyperparameters alone")
        supervised = SupervisedMethod(hyperparameters=body.hyperparameters)
    return MethodParam(type="supervised", supervised=supervised)


async def _check_response_format(
    given: dict[str, Any], size: int, gateway: Gateway, author: Author, where: str
) -> None:
    """BadRequest for what the engine would refuse of every completion, once the job's turn has come."""
    engine, payload = gateway.engine, {"prompt": [0], "max_tokens": 1, "response_format": given}
    try:
        await off_loop(size, engine.check_request, "/v1/completions", payload)
        for grammar in grammars_of(payload, all_tools=False):
            why = await engine.why_no_grammar(grammar, author.principal.tenant.id)
            if why is not None:
                raise BadRequest(f"{grammar.field}: {why}", param=grammar.field, code="invalid_grammar")
    except BadRequest as error:
        param = f"{where}.{error.param or 'response_format'}"
        raise BadRequest(f"{where}: {error.message}", param=param, code=error.code) from error


def _misplaced(where: str) -> BadRequest:
    return BadRequest(
        f"hyperparameters are deprecated here; give them as {where}", param="hyperparameters", code="invalid_value"
    )


async def _init(model: str, gateway: Gateway, author: Author) -> StoredVersion | None:
    """The adapter to start from, when `model` is not a base model. NotFound when it is neither."""
    if model in gateway.engine.base_models:
        return None
    try:
        reference = parse_reference(model, "model")
        stored = await gateway.registry.resolve(author.principal.tenant.id, reference)
    except (BadRequest, NotFound) as error:
        raise model_not_found(model, gateway.engine.base_models) from error
    if stored.adapter.factors != gateway.engine.factors.digest:
        raise BadRequest(
            f"model is {model}, an adapter of another base model; choose one made for this server's",
            param="model",
            code="factors_mismatch",
        )
    return stored
