"""What a tenant and a key may use: requests per minute, tokens per minute, and requests open at once.

A request is charged to all quotas that concern it, or to none. Its tokens are estimated, and corrected when it has
ended; an answer longer than the estimate is charged while it grows and leaves a debt, which later requests wait for.

Lines of batches (the background) leave half of every quota per minute to requests that somebody waits for. They are not
among the requests open at once, because how many of them run is bounded elsewhere (background_pace.py).

Keys with the scope admin, and so training jobs, are not limited: their requests only queue. Where it is counted is the
store's: in this process (quota_store.py), or for all gateways together (redis_quotas.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from server.core.errors import TooManyRequests
from server.core.principal import Limits, Principal
from server.core.retry_headers import retry_headers
from server.limits.quota_store import Draw, Hold, ProcessQuotas, QuotaStore, Taken
from server.limits.rate_limit_headers import NO_RETRY, duration, limit_headers
from server.limits.token_bucket import MINUTE_S, Bucket

Counted = Literal["requests", "tokens"]
# When a running request ends is not known.
OPEN_REQUESTS_RETRY_S = 1.0
# Tokens by which the charge of an answer grows that is longer than estimated; a count is not settled for each token.
GROWTH = 128


@dataclass(frozen=True, slots=True)
class Quota:
    """What a request takes of one quota per minute of `owner` ("tenant acme")."""

    owner: str
    counted: Counted
    draw: Draw

    @property
    def limit(self) -> int:
        return self.draw.bucket.per_minute

    def leaving_half(self) -> Quota:
        """The same, taken only where half of the quota is left then; of one that takes more, where it is full."""
        left = min(self.limit // 2, max(0, self.limit - self.draw.amount))
        return replace(self, draw=replace(self.draw, leaves=left))


@dataclass(frozen=True, slots=True)
class OpenLimit:
    """How many requests `owner` may have open."""

    owner: str
    hold: Hold


@dataclass(frozen=True, slots=True)
class Levels:
    """The quotas of a request, and what was in them once it was admitted or refused."""

    quotas: Sequence[Quota]
    to_full_s: Sequence[float]

    def left(self, position: int) -> float:
        """What is in the quota at this position; below zero is a debt."""
        return self.quotas[position].limit * (1 - self.to_full_s[position] / MINUTE_S)

    def headers(self) -> dict[str, str]:
        """The quota with the least left of those on requests, and of those on tokens."""
        headers: dict[str, str] = {}
        for counted in ("requests", "tokens"):
            positions = [at for at, quota in enumerate(self.quotas) if quota.counted == counted]
            if positions:
                least = min(positions, key=self.left)
                headers |= limit_headers(counted, self.quotas[least].limit, self.left(least), self.to_full_s[least])
        return headers


class Ticket:
    """One admitted request. `close` or `cancel` must be called once, when it has ended."""

    def __init__(self, store: QuotaStore, taken: Taken, levels: Levels, more: Mapping[str, str]) -> None:
        self._store = store
        self._taken = taken
        self._levels = levels
        self._more = more
        self._grown = 0  # charged beyond the estimate
        # Each of as many tokens as the request was estimated to take.
        self._token_draws = tuple(quota.draw for quota in levels.quotas if quota.counted == "tokens")

    def headers(self) -> dict[str, str]:
        """The state of its quotas when it was admitted, as response headers; none for a request without quotas."""
        return {**self._levels.headers(), **self._more}

    def used(self, tokens: int) -> None:
        """It runs, and has used so many tokens until now: what goes beyond its charge is charged too.

        Does nothing once it has ended, which the engine may hear a step later.
        """
        draws = self._token_draws
        if draws and tokens > draws[0].amount + self._grown:
            grows = max(GROWTH, tokens - draws[0].amount - self._grown)
            self._grown += grows
            # Of what it holds nothing is let go.
            self._store.give_back(replace(self._taken, holds=(), name=""), [Draw(d.bucket, grows) for d in draws])

    def close(self, tokens: int | None) -> None:
        """It has ended and used so many tokens; None: as many as were charged."""
        more = [] if tokens is None else [Draw(d.bucket, tokens - d.amount - self._grown) for d in self._token_draws]
        self._token_draws = ()
        self._store.give_back(self._taken, [draw for draw in more if draw.amount])

    def cancel(self) -> None:
        """It was not served at all: nothing is charged."""
        self._store.give_back(self._taken, [Draw(draw.bucket, -draw.amount) for draw in self._taken.draws])


class Quotas:
    """The quotas of all tenants and keys, counted in `store`."""

    def __init__(self, store: QuotaStore | None = None) -> None:
        self._store: QuotaStore = store or ProcessQuotas()

    async def admit(
        self,
        principal: Principal,
        tokens: int,
        headers: Mapping[str, str] | None = None,
        *,
        background: bool = False,
    ) -> Ticket:
        """Charge a request of so many tokens, by estimate; `headers` are added to those of its ticket.

        TooManyRequests says which quota does not allow it.
        """
        quotas, opens = quotas_of(principal, tokens)
        if background:
            quotas, opens = [quota.leaving_half() for quota in quotas], []
        draws, holds = [quota.draw for quota in quotas], [each.hold for each in opens]
        for position, quota in enumerate(quotas):
            if quota.draw.amount > quota.limit:
                raise _never_fits(await self.levels(principal), position, quota.draw.amount)
        if not draws and not holds:
            return Ticket(self._store, Taken(True, (), (), (), ()), Levels((), ()), headers or {})
        taken = await self._store.take(draws, holds)
        levels = Levels(quotas, taken.to_full_s)
        if taken.granted:
            return Ticket(self._store, taken, levels, headers or {})
        for each, count in zip(opens, taken.open, strict=True):
            if count >= each.hold.limit:
                raise _too_many_open(levels, each, count)
        raise _used_up(levels)

    async def grants_priority(self, principal: Principal) -> bool:
        """Take one of the requests of higher priority that its tenant may make in a minute. Admins may always."""
        if principal.may("admin"):
            return True
        limit = principal.tenant.limits.priority_requests_per_minute
        if limit is None:
            return False
        bucket = Bucket(f"{_tenant_key(principal)}:priority", limit)
        return (await self._store.take([Draw(bucket, 1)], [])).granted

    async def levels(self, principal: Principal) -> Levels:
        """What is in the quotas per minute of `principal` now."""
        quotas, _ = quotas_of(principal, 0)
        nothing = [Draw(quota.draw.bucket, 0) for quota in quotas]
        return Levels(quotas, (await self._store.take(nothing, [])).to_full_s if nothing else ())


def quotas_of(principal: Principal, tokens: int) -> tuple[list[Quota], list[OpenLimit]]:
    """Which quotas concern a request of `principal` that takes so many tokens: the tenant's and the key's."""
    if principal.may("admin"):
        return [], []
    tenant = principal.tenant
    tenant_key = _tenant_key(principal)
    owners: list[tuple[str, str, Limits]] = [(tenant_key, f"tenant {tenant.name}", tenant.limits)]
    if principal.key_id is not None:
        owners.append((f"{tenant_key}:{principal.key_id}", f"key {principal.key_id}", principal.key_limits))
    quotas, opens = [], []
    for key, name, limits in owners:
        if limits.requests_per_minute is not None:
            quotas.append(Quota(name, "requests", Draw(Bucket(f"{key}:requests", limits.requests_per_minute), 1)))
        if limits.tokens_per_minute is not None:
            quotas.append(Quota(name, "tokens", Draw(Bucket(f"{key}:tokens", limits.tokens_per_minute), tokens)))
        if limits.concurrent_requests is not None:
            opens.append(OpenLimit(name, Hold(f"{key}:open", limits.concurrent_requests)))
    return quotas, opens


def _tenant_key(principal: Principal) -> str:
    return f"tenant-{principal.tenant.id}"


def _used_up(levels: Levels) -> TooManyRequests:
    waits = [
        to_full + quota.draw.needed_s - MINUTE_S for quota, to_full in zip(levels.quotas, levels.to_full_s, strict=True)
    ]
    wait = max(waits)
    position = waits.index(wait)
    quota = levels.quotas[position]
    return TooManyRequests(
        f"Rate limit reached for {quota.owner} on {quota.counted} per minute: limit {quota.limit}, used "
        f"{ceil(quota.limit - levels.left(position) - 1e-6)}, requested {quota.draw.amount}. Try again in "
        f"{duration(wait)}.",
        counted=quota.counted,
        reason=f"{quota.counted}_per_minute",
        headers={**levels.headers(), **retry_headers(wait)},
    )


def _never_fits(levels: Levels, position: int, amount: int) -> TooManyRequests:
    quota = levels.quotas[position]
    allowed = f"{quota.owner} may use at most {quota.limit} {quota.counted} per minute"
    if quota.counted == "tokens":
        allowed += f" and this one alone may take {amount}. Shorten the prompt or lower max_tokens"
    return TooManyRequests(
        f"The request can never be served: {allowed}.",
        counted=quota.counted,
        reason="never_fits",
        headers={**levels.headers(), **NO_RETRY},
    )


def _too_many_open(levels: Levels, each: OpenLimit, count: int) -> TooManyRequests:
    return TooManyRequests(
        f"Rate limit reached for {each.owner} on open requests: limit {each.hold.limit}, used {count}. Try again when "
        "one of them has ended.",
        counted="requests",
        reason="concurrent_requests",
        headers={**levels.headers(), **retry_headers(OPEN_REQUESTS_RETRY_S)},
    )
