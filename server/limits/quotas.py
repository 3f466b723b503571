"""What a tenant and a key may use: requests per minute, tokens per minute, and requests open at once.

A request is charged to all quotas that concern it, or to none. Its tokens are estimated, and corrected when it has
ended; an answer longer than the estimate leaves a debt, which later requests wait for. There is no await between
checking and charging, so two requests cannot both take the last of a quota.

Keys with the scope admin, and so training jobs, are not limited: their requests only queue. Quotas hold per process:
several gateways each grant them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from server.core.errors import TooManyRequests
from server.core.principal import Limits, Principal
from server.limits.rate_limit_headers import NO_RETRY, duration, limit_headers, retry_headers
from server.limits.token_bucket import Bucket, TokenBuckets

Counted = Literal["requests", "tokens"]
# When a running request ends is not known.
OPEN_REQUESTS_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request takes of one quota per minute of `owner` ("tenant acme")."""

    owner: str
    counted: Counted
    bucket: Bucket
    amount: int


class Ticket:
    """One admitted request. `close` must be called once, when it has ended."""

    def __init__(self, quotas: Quotas, charges: list[Charge], holders: list[Hashable]) -> None:
        self._quotas = quotas
        self._charges = charges
        self._holders = holders

    def headers(self) -> dict[str, str]:
        """The state of its quotas, as response headers; none for a request without quotas."""
        return self._quotas.headers(self._charges)

    def close(self, tokens: int | None) -> None:
        """It has ended and used so many tokens; None: as many as were estimated."""
        for charge in self._charges:
            if charge.counted == "tokens" and tokens is not None:
                self._quotas.buckets.take(charge.bucket, tokens - charge.amount)
        self._quotas.close(self._holders)

    def cancel(self) -> None:
        """It was not served at all: nothing is charged."""
        for charge in self._charges:
            self._quotas.buckets.take(charge.bucket, -charge.amount)
        self._quotas.close(self._holders)


class Quotas:
    """The quotas of all tenants and keys, as far as they are in use. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.buckets = TokenBuckets(clock)
        self._open: Counter[Hashable] = Counter()

    @property
    def open_requests(self) -> int:
        """Requests now open, once for every tenant and key that has a limit on them."""
        return self._open.total()

    def admit(self, principal: Principal, tokens: int) -> Ticket:
        """Charge a request of so many tokens, by estimate. TooManyRequests says which quota does not allow it."""
        owners = _owners(principal)
        charges = [charge for key, name, limits in owners for charge in _charges(key, name, limits, tokens)]
        for charge in charges:
            if charge.amount > charge.bucket.per_minute:
                raise self._never_fits(charge, charges)
        for key, name, limits in owners:
            if limits.concurrent_requests is not None and self._open[key] >= limits.concurrent_requests:
                raise self._too_many_open(key, name, limits.concurrent_requests, charges)
        waits = [self.buckets.seconds_until(charge.bucket, charge.amount) for charge in charges]
        if any(waits):
            wait = max(waits)
            raise self._used_up(charges[waits.index(wait)], wait, charges)
        for charge in charges:
            self.buckets.take(charge.bucket, charge.amount)
        holders = [key for key, _, limits in owners if limits.concurrent_requests is not None]
        self._open.update(holders)
        return Ticket(self, charges, holders)

    def close(self, holders: list[Hashable]) -> None:
        """A request of these tenants and keys has ended."""
        self._open.subtract(holders)
        for key in holders:
            if not self._open[key]:
                del self._open[key]

    def headers(self, charges: list[Charge]) -> dict[str, str]:
        """The quota with the least left of those on requests, and of those on tokens."""
        headers: dict[str, str] = {}
        for counted in ("requests", "tokens"):
            buckets = [charge.bucket for charge in charges if charge.counted == counted]
            if buckets:
                least = min(buckets, key=self.buckets.level)
                left, reset_s = self.buckets.level(least), self.buckets.seconds_to_full(least)
                headers |= limit_headers(counted, least.per_minute, left, reset_s)
        return headers

    def _used_up(self, charge: Charge, wait: float, charges: list[Charge]) -> TooManyRequests:
        limit = charge.bucket.per_minute
        used = ceil(limit - self.buckets.level(charge.bucket))
        return TooManyRequests(
            f"Rate limit reached for {charge.owner} on {charge.counted} per minute: limit {limit}, used {used}, "
            f"requested {charge.amount}. Try again in {duration(wait)}.",
            counted=charge.counted,
            reason=f"{charge.counted}_per_minute",
            headers={**self.headers(charges), **retry_headers(wait)},
        )

    def _never_fits(self, charge: Charge, charges: list[Charge]) -> TooManyRequests:
        allowed = f"{charge.owner} may use at most {charge.bucket.per_minute} {charge.counted} per minute"
        if charge.counted == "tokens":
            allowed += f" and this one alone may take {charge.amount}. Shorten the prompt or lower max_tokens"
        return TooManyRequests(
            f"The request can never be served: {allowed}.",
            counted=charge.counted,
            reason="never_fits",
            headers={**self.headers(charges), **NO_RETRY},
        )

    def _too_many_open(self, key: Hashable, name: str, limit: int, charges: list[Charge]) -> TooManyRequests:
        return TooManyRequests(
            f"Rate limit reached for {name} on open requests: limit {limit}, used {self._open[key]}. Try again when "
            "one of them has ended.",
            counted="requests",
            reason="concurrent_requests",
            headers={**self.headers(charges), **retry_headers(OPEN_REQUESTS_RETRY_S)},
        )


def _owners(principal: Principal) -> list[tuple[Hashable, str, Limits]]:
    """Whose quotas concern a request of `principal`: the tenant's and the key's."""
    if principal.may("admin"):
        return []
    tenant = principal.tenant
    owners: list[tuple[Hashable, str, Limits]] = [(("tenant", tenant.id), f"tenant {tenant.name}", tenant.limits)]
    if principal.key_id is not None:
        owners.append((("key", principal.key_id), f"key {principal.key_id}", principal.key_limits))
    return owners


def _charges(key: Hashable, name: str, limits: Limits, tokens: int) -> list[Charge]:
    charges = []
    if limits.requests_per_minute is not None:
        charges.append(Charge(name, "requests", Bucket((key, "requests"), limits.requests_per_minute), 1))
    if limits.tokens_per_minute is not None:
        charges.append(Charge(name, "tokens", Bucket((key, "tokens"), limits.tokens_per_minute), tokens))
    return charges
