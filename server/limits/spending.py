"""What a tenant may spend: so many tokens in a calendar month of UTC.

What it has spent is read with its row at every request (db/point_reads.py). Gateways add to that at intervals
(`usage_flush_s`), so a tenant can go beyond its limit by what it uses in such an interval and by what is running;
what runs is never cut off.
"""

from __future__ import annotations

from datetime import UTC, datetime

from server.core.clock import now
from server.core.errors import TooManyRequests
from server.core.months import month_name, next_month
from server.core.principal import Principal, Tenant
from server.limits.rate_limit_headers import NO_RETRY, limit_headers


def check_month(principal: Principal) -> None:
    """TooManyRequests with OpenAI's code insufficient_quota where the tenant has spent its month; never for admins."""
    tenant, limit = principal.tenant, principal.tenant.limits.tokens_per_month
    if limit is None or principal.may("admin") or tenant.month_tokens < limit:
        return
    at = now()
    raise TooManyRequests(
        f"Tenant {tenant.name} may use {limit} tokens in a month, and has used {tenant.month_tokens} in "
        f"{month_name(at)}. The next month begins at {datetime.fromtimestamp(next_month(at), UTC):%Y-%m-%dT%H:%M:%SZ}; "
        "the operator of this server can allow more (tokens_per_month of the tenant).",
        counted="insufficient_quota",
        code="insufficient_quota",
        reason="tokens_per_month",
        headers={**month_headers(tenant), **NO_RETRY},
    )


def month_headers(tenant: Tenant) -> dict[str, str]:
    """What is left of the month, in headers like those of other quotas; none without a limit."""
    limit = tenant.limits.tokens_per_month
    if limit is None:
        return {}
    at = now()
    return limit_headers("month-tokens", limit, limit - tenant.month_tokens, next_month(at) - at)
