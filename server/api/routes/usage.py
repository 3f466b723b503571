"""GET /v1/usage: what was used, in the shape of OpenAI's usage API. (/usage is the same.)

Answers have the shape of OpenAI's /v1/organization/usage/completions, and its names for our words are understood too:
model (adapter), api_key_id (key), project_id (tenant). So programs that read the one read the other.

A tenant sees its own usage; with the scope admin, that of all tenants can be asked for.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.deps import GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.usage import UsagePage, UsageParameters
from server.core.clock import now
from server.core.errors import BadRequest, Forbidden
from server.core.principal import Principal
from server.inference.usage_report import Cursor, Group, UsageQuery, parse_cursor, read_usage

WIDTHS_S = {"1h": 3600, "1d": 86_400}
# OpenAI's: buckets of a page by default, and at most.
BUCKETS = {"1h": (24, 168), "1d": (7, 31)}
_GROUPS: dict[str, Group] = {
    "adapter": "adapter",
    "model": "adapter",
    "key": "key",
    "api_key_id": "key",
    "tenant": "tenant",
    "project_id": "tenant",
}

router = APIRouter(prefix="/v1", tags=["usage"], route_class=OwnRoute)


@router.get("/usage")
@router.get("/organization/usage/completions", include_in_schema=False)
def get_usage(
    gateway: GatewayDep, principal: PrincipalDep, parameters: Annotated[UsageParameters, Query()]
) -> UsagePage:
    """Tokens and requests, by time and, if asked for, by adapter, key and tenant."""
    query = _query(parameters, principal)
    default, most = BUCKETS[parameters.bucket_width]
    limit = default if parameters.limit is None else parameters.limit
    if limit > most:
        raise BadRequest(
            f"limit is {limit}, expected at most {most} buckets of {parameters.bucket_width}",
            param="limit",
            code="invalid_value",
        )
    cursor = Cursor(query.start) if parameters.page is None else parse_cursor(parameters.page, query)
    gateway.usage.flush()
    with gateway.database.read() as connection:
        return UsagePage.of(read_usage(connection, query, cursor, limit), query.width)


def _query(parameters: UsageParameters, principal: Principal) -> UsageQuery:
    groups: tuple[Group, ...] = tuple(dict.fromkeys(_GROUPS[name] for name in parameters.group_by))
    others = parameters.all_tenants or not {principal.tenant.name}.issuperset(parameters.tenants)
    of_all = others or ("tenant" in groups and principal.may("admin"))
    if of_all and not principal.may("admin"):
        raise Forbidden("The usage of other tenants takes a key with the scope admin; ask for your own.")
    width = WIDTHS_S[parameters.bucket_width]
    end = now() + 1 if parameters.end_time is None else parameters.end_time
    if end <= parameters.start_time:
        raise BadRequest(
            f"end_time is {end} and start_time {parameters.start_time}; a query ends after it begins",
            param="end_time" if parameters.end_time is not None else "start_time",
            code="invalid_value",
        )
    return UsageQuery(
        None if of_all else principal.tenant.id,
        start=parameters.start_time // width * width,
        end=-(-end // width) * width,
        width=width,
        groups=groups,
        adapters=parameters.adapters,
        keys=parameters.keys,
        tenants=parameters.tenants,
    )
