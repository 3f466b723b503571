"""The training workers that `tinylora serve` runs itself: processes beside it that end with it.

There are two kinds. Those that train by gradients have their own copy of the base model; where there are GPUs, each has
the place that gpu_plan.py has kept for it: its GPUs, and how much of them. Those of evolution have no weights and no
GPU, so there can be one whatever else the machine has room for, and whatever the served model is.

A worker is started when there is a job for it that nobody works on, and then stays. It runs at a low priority, because
it shares the machine's cores with the serving engine. If it dies, another one is started when its leases have expired;
if workers keep dying soon, less and less often. The server stops them when it answers nobody any more, so it gives
back their jobs itself.

It is a client like any other worker and gets its key in its environment; without a worker key in the settings the
server makes one that is never shown.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from server.core.errors import ApiError, Unavailable
from server.core.host_memory import GIB
from server.db.database import Database
from server.db.training_tables import JOBS
from server.launch.gpu_facts import VISIBLE_VARIABLE
from server.launch.gpu_plan import WorkerGpus
from server.training.jobs.config import METHODS, Method, needs_weights
from server.training.jobs.progress import give_back
from server.training.jobs.turns import unleased
from server.training.jobs.worker_name import new_worker_name

log = structlog.get_logger(__name__)

# The server no longer answers by then, so there is nothing that a worker could wait for.
STOP_S = 3.0
MAX_BACKOFF_S = 300.0
KEY_VARIABLE = "TINYLORA_WORKER_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class _Started:
    """When a process was started, which of the places it has, and the name by which it claims jobs."""

    at: float
    place: int
    name: str


@dataclass(frozen=True, slots=True)
class OwnWorkers:
    """`command` starts one; `factors` is the digest of those it trains with. Looks for jobs every `poll_s` seconds.

    methods: of the jobs that they do. gpus: the place of each on the GPUs; empty: what `command` finds. direct: hosts
    that they reach without a proxy.
    """

    count: int
    command: Sequence[str]
    key: str | None
    factors: str
    poll_s: float = 2.0
    gpus: Sequence[WorkerGpus] = ()
    methods: Sequence[Method] = METHODS
    direct: Sequence[str] = LOOPBACK

    @asynccontextmanager
    async def running(self, database: Database) -> AsyncIterator[None]:
        """Inside, jobs that wait for a worker find one."""
        started: dict[Process, _Started] = {}
        supervisor = asyncio.create_task(self._supervise(database, started))
        try:
            yield
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
            # Of those that died by themselves a job may be the cause, and its attempts go on being counted.
            names = [one.name for process, one in started.items() if process.returncode in (None, 0)]
            await asyncio.gather(*map(_stop, started))
            await self._give_back(database, names)

    async def _supervise(self, database: Database, started: dict[Process, _Started]) -> None:
        """Keeps the processes in `started`."""
        backoff_s, not_before = 0.0, 0.0
        while self.count:
            await asyncio.sleep(self.poll_s)
            now = time.monotonic()
            for process in [process for process in started if process.returncode is not None]:
                lived_s = now - started.pop(process).at
                # One that does not even start will not do so the next moment.
                crashed_early = process.returncode != 0 and lived_s < MAX_BACKOFF_S
                backoff_s = self._next_backoff(backoff_s) if crashed_early else 0.0
                not_before = now + backoff_s
                log.warning(
                    "worker_ended", status=process.returncode, lived_s=round(lived_s), another_after_s=round(backoff_s)
                )
            if len(started) < self.count and now >= not_before and await self._needs_worker(database):
                log.info("worker_starts", methods=list(self.methods))
                place = min(set(range(self.count)) - {one.place for one in started.values()})
                gpus = self.gpus[place] if self.gpus else None
                name = new_worker_name()
                command, environment = [*self.command, "--name", name, *_memory_flags(gpus)], self._environment(gpus)
                try:
                    process = await asyncio.create_subprocess_exec(*command, env=environment)
                except OSError as error:  # no memory for it at the moment, say
                    log.warning("worker_not_started", reason=str(error))
                    backoff_s = self._next_backoff(backoff_s)
                    not_before = now + backoff_s
                else:
                    started[process] = _Started(now, place, name)

    async def _give_back(self, database: Database, names: Iterable[str]) -> None:
        """The jobs of workers that have been stopped wait for others, and none is thought to have ended them."""
        for name in names:
            try:
                await asyncio.to_thread(database.transact, partial(give_back, database, worker=name))
            except (ApiError, sa.exc.SQLAlchemyError) as error:
                log.warning("jobs_not_given_back", worker=name, reason=str(error))

    def _next_backoff(self, backoff_s: float) -> float:
        return min(MAX_BACKOFF_S, max(self.poll_s, 2 * backoff_s))

    async def _needs_worker(self, database: Database) -> bool:
        try:
            return await asyncio.to_thread(self._has_unleased_job, database)
        except (Unavailable, sa.exc.SQLAlchemyError):  # A database that is away must not end the supervision.
            return False

    def _environment(self, gpus: WorkerGpus | None) -> dict[str, str]:
        # No proxy stands between a machine and itself.
        direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), *self.direct]))
        environment = {**os.environ, "NO_PROXY": direct, "no_proxy": direct}
        if gpus is not None:
            environment[VISIBLE_VARIABLE] = ",".join(gpus.names)
        elif not needs_weights(self.methods):
            environment[VISIBLE_VARIABLE] = ""
        return environment if self.key is None else {**environment, KEY_VARIABLE: self.key}

    def _has_unleased_job(self, database: Database) -> bool:
        jobs = sa.select(sa.literal(1)).where(
            JOBS.c.status.in_(("validating_files", "queued", "running")),
            unleased(),
            JOBS.c.factors == self.factors,
            JOBS.c.method_type.in_(self.methods),
        )
        with database.read() as connection:
            return connection.execute(jobs.limit(1)).first() is not None


def _memory_flags(gpus: WorkerGpus | None) -> list[str]:
    # Rounded down.
    return [] if gpus is None else ["--memory-gib", f"{int(gpus.limit / GIB * 1000) / 1000:.3f}"]


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
