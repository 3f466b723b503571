"""GET /v1/limits: what a key may use, and what is left of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.deps import GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.limits import LimitsObject
from server.api.schemas.pages import NoQuery
from server.core.clock import now

router = APIRouter(prefix="/v1", tags=["usage"], route_class=OwnRoute)


@router.get("/limits")
async def get_limits(gateway: GatewayDep, principal: PrincipalDep, _query: Annotated[NoQuery, Query()]) -> LimitsObject:
    """The quotas of the tenant and of the key that asks, and what is left of them. Asking takes nothing of them."""
    return LimitsObject.of(principal, await gateway.quotas.levels(principal), now())
