"""What routes ask for in their signatures: the app's parts, who asks, and what some headers say.

    GatewayDep        the parts of the app
    TrainingDep       those of training
    PrincipalDep      who asks
    AuthorDep         who writes, with the request's id and its Idempotency-Key
    WriteDep          runs what the request writes, by its author and its content
    PreconditionDep   If-Match and If-None-Match

It holds no state of its own: create_app makes the parts, and a dependency hands them to a route.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from server.api.writes import AuditedWrites, Author, RequestedWrite, fingerprint_of
from server.core.errors import PayloadTooLarge
from server.core.idempotency import idempotency_key_of
from server.core.principal import Principal
from server.core.request_body import MAX_JSON_BYTES
from server.core.request_state import principal_of, state_of
from server.core.seals import Seals
from server.core.settings import Settings
from server.db.database import Database
from server.db.point_reads import PointReads
from server.db.writability import Writability
from server.endpoints.webhook_delivery import WebhookDelivery
from server.engine.protocol import Engine
from server.inference.responses.serving import Responses
from server.inference.usage_meter import UsageMeter
from server.limits.grader_runs import GraderRuns
from server.limits.quotas import Quotas
from server.limits.recipe_budget import RecipeBudget
from server.observability.metrics import GatewayMetrics
from server.registry.etags import Precondition
from server.registry.store import Registry
from server.training.files.storage import FileStorage
from server.training.graders.build import GraderTools
from server.training.jobs.config import Method
from server.training.jobs.metrics import JobMetrics
from server.training.jobs.stranded import StrandedJobs
from server.training.jobs.unreadable import UnreadableJobs


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one app. `draining` is set when the server is ending."""

    settings: Settings
    engine: Engine
    database: Database
    reads: PointReads
    writes: AuditedWrites
    registry: Registry
    metrics: GatewayMetrics
    usage: UsageMeter
    recipes: RecipeBudget
    quotas: Quotas
    responses: Responses
    webhooks: WebhookDelivery
    seals: Seals
    writability: Writability
    draining: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True)
class Training:
    """The parts of training in one app. own_methods: of the jobs for which the server starts workers itself.
    unreadable, stranded: the jobs that claims pass over."""

    files: FileStorage
    metrics: JobMetrics
    graders: GraderTools
    grader_runs: GraderRuns
    own_methods: frozenset[Method]
    unreadable: UnreadableJobs = field(default_factory=UnreadableJobs)
    stranded: StrandedJobs = field(default_factory=StrandedJobs)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _training(request: Request) -> Training:
    training: Training = request.app.state.training
    return training


def _principal(request: Request) -> Principal:
    return principal_of(request.scope)


def author_of(
    request: Request,
    # For the documentation; what it may be is checked below.
    _key: Annotated[
        str | None, Header(alias="Idempotency-Key", description="The same request again gets the same answer.")
    ] = None,
) -> Author:
    """The author of `request`. BadRequest for an Idempotency-Key that cannot be one."""
    return Author(principal_of(request.scope), state_of(request.scope).id, idempotency_key_of(request.headers))


async def _requested_write(request: Request, gateway: GatewayDep, author: AuthorDep) -> RequestedWrite:
    # Of a body that the route takes Starlette keeps a copy; of any other none is needed.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise PayloadTooLarge(f"The body has more than {MAX_JSON_BYTES} bytes, expected none or a short one.")
    return RequestedWrite(gateway.writes, author, fingerprint_of(request, bytes(body)))


def _precondition(
    request: Request,
    # For the documentation; a header that comes twice is one list.
    _if_match: Annotated[str | None, Header(alias="If-Match", description="ETags, one of which it must have.")] = None,
    _if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="ETags, none of which it may have; * for any.")
    ] = None,
) -> Precondition:
    def joined(name: str) -> str | None:
        return ", ".join(request.headers.getlist(name)) if name in request.headers else None

    return Precondition(joined("if-match"), joined("if-none-match"))


GatewayDep = Annotated[Gateway, Depends(_gateway)]
TrainingDep = Annotated[Training, Depends(_training)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
AuthorDep = Annotated[Author, Depends(author_of)]
WriteDep = Annotated[RequestedWrite, Depends(_requested_write)]
PreconditionDep = Annotated[Precondition, Depends(_precondition)]
# What OpenAPI says of a GET that takes them.
CONDITIONAL: dict[int | str, dict[str, Any]] = {304: {"description": "It is what If-None-Match names."}}
