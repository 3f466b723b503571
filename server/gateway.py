"""What the gateway's routes work with, as one dependency.

It holds no state of its own: create_app makes it, and `GatewayDep` hands it to a route.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.database import Database
from server.engine_api import Engine
from server.metrics import GatewayMetrics
from server.point_reads import PointReads
from server.recipe_budget import RecipeBudget
from server.registry import Registry
from server.settings import Settings
from server.usage import UsageMeter
from server.writes import Writes


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one app."""

    settings: Settings
    engine: Engine
    database: Database
    reads: PointReads
    writes: Writes
    registry: Registry
    metrics: GatewayMetrics
    usage: UsageMeter
    recipes: RecipeBudget


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(_gateway)]
