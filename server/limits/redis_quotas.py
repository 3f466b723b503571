"""Quotas that hold over all gateways, counted in one Redis; by this process's own count while Redis does not answer.

Design decision: not the library `limits`. Its strategies try one limit after the other, so that a refused request would
leave traces in some, and none of them takes back what was charged too much, or lets a long answer leave a debt.

Nothing waits for Redis longer than the timeout, and while it is away nothing waits at all: a task asks every second
whether it is back. What this process has admitted is also counted here all the time, so that its own count is warm when
it is needed. What was used while Redis was away is not added to it afterwards: buckets refill within a minute anyway.
Open requests do not: a take that nobody saw answered may have been counted, and requests end while Redis is away. Their
names are remembered, and taken out of it when it is back.

Commands of several connections reach Redis in any order. So a take whose caller was cancelled, and a renewal when all
ends, go on to their ends, and what they may have counted is given back behind them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

import structlog
from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from server.core.settings import Settings
from server.limits.quota_store import Draw, Hold, ProcessQuotas, Taken
from server.limits.redis_scripts import GIVE_BACK, RENEW, TAKE
from server.limits.token_bucket import MINUTE_S, NO_WAIT_S, Bucket

CONNECTIONS = 16
RETRY_S = 1.0
LEASE_S = 60.0
RENEW_S = 20.0
# Of requests that have ended and are still to be told; more are forgotten, and settled by the refill and the lease.
MAX_SETTLING = 10_000
FAILURES = (RedisError, OSError, TimeoutError)


class RedisQuotas:
    """For one event loop. `clock` gives seconds since 1970; without it, Redis's own time holds.

    `fallbacks` counts requests that were admitted or refused by this process's own count.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout_s: float,
        fallbacks: Counter,
        clock: Callable[[], float] | None = None,
        own: ProcessQuotas | None = None,
        renew_s: float = RENEW_S,
    ) -> None:
        self._redis = open_redis(url, timeout_s)
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._clock = clock
        self._renew_s = renew_s
        self._own = own or ProcessQuotas()
        self._take, self._give_back, self._renew = map(self._redis.register_script, (TAKE, GIVE_BACK, RENEW))
        self._process, self._numbers = uuid.uuid4().hex, count()
        self._open: dict[str, Sequence[Hold]] = {}  # what this process holds in Redis
        # What Redis may hold of requests that are not open, while it is away.
        self._ended: dict[str, Sequence[Hold]] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.Task[None] | None = None  # for Redis to come back
        self._answers = True
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()
        self._fallbacks = fallbacks

    async def take(self, draws: Sequence[Draw], holds: Sequence[Hold]) -> Taken:
        if self._answers:
            name = f"{self._process}-{next(self._numbers)}" if holds else ""
            taking = asyncio.create_task(self._take_in_time(draws, holds, name))
            try:
                taken = await asyncio.shield(taking)
            except FAILURES as error:
                self._lose(error)
                self._remember(name, holds)
            except asyncio.CancelledError:
                self._settle_soon(name, (), holds, taking)
                raise
            else:
                if taken.granted:
                    self._own.force(draws, holds)
                    if holds:
                        self._open[taken.name] = holds
                return taken
        self._fallbacks.inc()
        return await self._own.take(draws, holds)

    def give_back(self, taken: Taken, draws: Sequence[Draw]) -> None:
        self._own.give_back(taken, draws)
        self._open.pop(taken.name, None)
        if taken.shared and (draws or taken.holds):
            self._settle_soon(taken.name, draws, taken.holds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Finds out at once whether Redis answers, and renews what this process holds, while the block runs. Closes the
        connections in the end, when what has ended is settled."""
        try:
            await self._try()
        except FAILURES as error:
            self._lose(error)
        ending = asyncio.Event()
        renewing = asyncio.create_task(self._renew_until(ending))
        try:
            yield
        finally:
            ending.set()
            await asyncio.wait([renewing])
            await self.settled()
            if self._waiting is not None:
                self._waiting.cancel()
            await asyncio.gather(renewing, *filter(None, [self._waiting]), return_exceptions=True)
            await self._redis.aclose()

    async def settled(self) -> None:
        """Return when Redis has been told, or could not be, of all that was given back before."""
        if self._settling:
            await asyncio.wait(self._settling)

    async def _take_in_time(self, draws: Sequence[Draw], holds: Sequence[Hold], name: str) -> Taken:
        async with asyncio.timeout(self._timeout_s):
            return await self._take_shared(draws, holds, name)

    async def _take_shared(self, draws: Sequence[Draw], holds: Sequence[Hold], name: str) -> Taken:
        limits: list[float] = [*(draw.seconds for draw in draws), *(hold.limit for hold in holds)]
        limits += [draw.needed_s for draw in draws]
        arguments: list[str | float] = [self._now(), len(draws), MINUTE_S, NO_WAIT_S, name, LEASE_S, *limits]
        answer = await self._take(self._keys(draws, holds), arguments)
        granted, *state = map(float, answer)
        to_full_s, open_now = state[: len(draws)], [int(value) for value in state[len(draws) :]]
        return Taken(bool(granted), draws, holds, to_full_s, open_now, name, shared=True)

    def _settle_soon(
        self, name: str, draws: Sequence[Draw], holds: Sequence[Hold], taking: asyncio.Task[Taken] | None = None
    ) -> None:
        """Give it back in a task, when `taking` has ended."""
        if taking is None and not self._answers:
            self._remember(name, holds)
        elif len(self._settling) < MAX_SETTLING:
            task = asyncio.create_task(self._settle(name, draws, holds, taking))
            self._settling.add(task)  # the loop itself does not keep a task alive
            task.add_done_callback(self._settling.discard)

    async def _settle(
        self, name: str, draws: Sequence[Draw], holds: Sequence[Hold], taking: asyncio.Task[Taken] | None
    ) -> None:
        try:
            if taking is not None:
                await taking
            await self._settle_now(name, draws, holds)
        except FAILURES as error:
            self._lose(error)
            self._remember(name, holds)

    async def _settle_now(self, name: str, draws: Sequence[Draw], holds: Sequence[Hold]) -> None:
        arguments: list[str | float] = [self._now(), len(draws), name, *(draw.seconds for draw in draws)]
        async with asyncio.timeout(self._timeout_s):
            await self._give_back(self._keys(draws, holds), arguments)

    def _remember(self, name: str, holds: Sequence[Hold]) -> None:
        if holds and len(self._ended) < MAX_SETTLING:
            self._ended[name] = holds

    async def _renew_until(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._renew_s):
                    await ending.wait()
            for name, holds in list(self._open.items()):
                if self._answers and name in self._open and not ending.is_set():
                    try:
                        async with asyncio.timeout(self._timeout_s):
                            await self._renew(self._keys((), holds), [self._now(), LEASE_S, name])
                    except FAILURES as error:
                        self._lose(error)
                    if name not in self._open:
                        # It ended meanwhile, which another connection may have said before this one renewed it.
                        self._settle_soon(name, (), holds)

    def _lose(self, error: Exception) -> None:
        """Go on by this process's own count until Redis answers again; said once."""
        if self._answers:
            self._answers = False
            self._log.error(
                "Redis does not answer: quotas are counted by each gateway for itself until it does",
                error=str(error) or f"no answer within {self._timeout_s} s",
            )
            self._waiting = asyncio.create_task(self._wait_for_redis())

    async def _wait_for_redis(self) -> None:
        while not self._answers:
            await asyncio.sleep(RETRY_S)
            with suppress(*FAILURES):
                await self._try()
                while self._ended:
                    name, holds = next(iter(self._ended.items()))
                    await self._settle_now(name, (), holds)
                    del self._ended[name]
                self._answers = True
        self._log.info("Redis answers again: quotas are counted for all gateways together")

    async def _try(self) -> None:
        """Raises one of FAILURES where quotas, two at once, cannot be counted. A replica that takes no writes would
        answer a ping."""
        async with asyncio.timeout(self._timeout_s):
            draws = [Draw(Bucket(f"trial:{counted}", 60_000), 1) for counted in ("requests", "tokens")]
            await self._take_shared(draws, [], "")

    def _keys(self, draws: Sequence[Draw], holds: Sequence[Hold]) -> list[str]:
        names = [*(str(draw.bucket.key) for draw in draws), *(str(hold.key) for hold in holds)]
        # Braces around the tenant, so that all keys of a script are in one slot where Redis is in cluster mode.
        parts = (name.partition(":") for name in names)
        return [f"{self._prefix}:{{{tenant}}}:{what}" for tenant, _, what in parts]

    def _now(self) -> str:
        return "" if self._clock is None else f"{self._clock():.6f}"


def open_redis(url: str, timeout_s: float) -> Redis:
    """A client that connects when it is first used. ValueError for a URL that is none of Redis."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # A connection that the server has closed meanwhile is opened again, once; nothing is repeated after a timeout.
        retry=Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
    )
    return Redis.from_pool(pool)


def redis_quotas(settings: Settings, fallbacks: Counter) -> RedisQuotas | None:
    """Of the Redis that `settings` name; None where they name none."""
    if settings.redis_url is None:
        return None
    url = settings.redis_url.get_secret_value()
    return RedisQuotas(url, prefix=settings.redis_prefix, timeout_s=settings.redis_timeout_s, fallbacks=fallbacks)
