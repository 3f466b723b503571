"""What /v1/limits answers."""

from __future__ import annotations

from math import floor
from typing import Literal

from pydantic import BaseModel, Field

from server.core.months import next_month
from server.core.principal import Principal
from server.limits.quotas import Levels


class LimitObject(BaseModel):
    """One quota. `owner` is "tenant acme" or "key key_...". After `reset_s` seconds without use all of it is left."""

    object: Literal["limit"] = "limit"
    owner: str
    counted: Literal["requests", "tokens"]
    per: Literal["minute", "month"]
    limit: int
    remaining: int
    reset_s: float = Field(description="seconds")


class LimitsObject(BaseModel):
    """All quotas that hold for requests with the key that asks; none for the operator's keys."""

    object: Literal["limits"] = "limits"
    tenant: str
    key: str | None
    quotas: list[LimitObject]
    max_concurrent_requests: int | None = Field(description="of the tenant or the key, whichever is less")
    priority_requests_per_minute: int | None = Field(description='of service_tier "priority"; null: none')

    @classmethod
    def of(cls, principal: Principal, levels: Levels, at: int) -> LimitsObject:
        """The wire form of what is left `at` a time, in seconds since 1970."""
        tenant, limits = principal.tenant, principal.tenant.limits
        quotas = [
            LimitObject(
                owner=quota.owner,
                counted=quota.counted,
                per="minute",
                limit=quota.limit,
                remaining=max(0, floor(levels.left(position) + 1e-6)),
                reset_s=round(levels.to_full_s[position], 3),
            )
            for position, quota in enumerate(levels.quotas)
        ]
        admin = principal.may("admin")
        if limits.tokens_per_month is not None and not admin:
            quotas.append(
                LimitObject(
                    owner=f"tenant {tenant.name}",
                    counted="tokens",
                    per="month",
                    limit=limits.tokens_per_month,
                    remaining=max(0, limits.tokens_per_month - tenant.month_tokens),
                    reset_s=next_month(at) - at,
                )
            )
        open_limits = [limits.concurrent_requests, principal.key_limits.concurrent_requests]
        return cls(
            tenant=tenant.name,
            key=principal.key_id,
            quotas=quotas,
            max_concurrent_requests=None if admin else min(filter(None, open_limits), default=None),
            priority_requests_per_minute=None if admin else limits.priority_requests_per_minute,
        )
