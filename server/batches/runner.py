"""A gateway's share of the batches: claims those that nobody has, and runs a few of them at once.

A batch is given up for one of another tenant that would wait for it for hours (turns.py), and goes on later.

When the gateway ends in good order, it asks no more lines, and gives a batch back when those have their answers that it
has asked, or when it ends: then another gateway goes on with it at once. After any other end that happens when the
leases have run out. An end because the engine died is an attempt that failed: a line of which engines die would
otherwise end one gateway after the other. Of which batch it was nobody knows, so one that had such an attempt and has
got no answer since is tried alone for a while: no other tenant's attempts are used up by its line.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from server.batches import leases, turns
from server.batches.leases import Standing
from server.batches.run import BatchRun, NotMine, Tools
from server.batches.window import MAX_WINDOW
from server.core.background import cancelled, to_its_end
from server.core.errors import ApiError

MAX_AT_ONCE = 4
POLL_S = 2.0
# Its owner's quota may have it wait for longer; then others are taken beside it.
TRIAL_S = 60.0


@dataclass(frozen=True, slots=True)
class _Running:
    run: BatchRun
    task: asyncio.Task[None]
    began: float  # by the loop's clock


class BatchRunner:
    """Runs batches while `running` is entered."""

    def __init__(self, tools: Tools) -> None:
        self._tools = replace(tools, owner=f"gateway-{secrets.token_hex(8)}", window=min(tools.window, MAX_WINDOW))
        self._runs: dict[str, _Running] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def look(self, batch_id: str) -> None:
        """There is a new batch, or its owner wants something of it. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._look, batch_id)

    def _look(self, batch_id: str) -> None:
        self._wake.set()
        if batch_id in self._runs:
            self._runs[batch_id].run.nudge()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Claim and run batches in the background of the block."""
        self._loop = asyncio.get_running_loop()
        claiming = asyncio.create_task(self._claim_on_and_on())
        try:
            yield
        finally:
            self._loop = None
            await cancelled([claiming])
            await cancelled(running.task for running in self._runs.values())

    async def _claim_on_and_on(self) -> None:
        while True:
            self._wake.clear()
            try:
                if len(self._runs) >= MAX_AT_ONCE:
                    await self._give_way()
                while self._has_room() and (standing := await self._claim()) is not None:
                    if standing.row.id in self._runs:  # This process stood still for longer than its lease.
                        continue
                    run = BatchRun(self._tools, standing)
                    task = asyncio.create_task(self._run(run, standing))
                    self._runs[standing.row.id] = _Running(run, task, asyncio.get_running_loop().time())
            except (ApiError, sa.exc.SQLAlchemyError) as error:
                structlog.get_logger().warning("batches not claimed, tried again later", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)

    def _has_room(self) -> bool:
        since = asyncio.get_running_loop().time() - TRIAL_S
        is_trial = any(running.run.is_tried_again and running.began > since for running in self._runs.values())
        return len(self._runs) < MAX_AT_ONCE and not is_trial and not self._tools.draining.is_set()

    async def _give_way(self) -> None:
        """Give a batch up where another tenant's waits that is more in need of its place. What was answered is kept."""
        tools, at = self._tools, asyncio.get_running_loop().time()
        had_s = {batch_id: at - running.began for batch_id, running in self._runs.items()}

        def gives_way() -> str | None:
            with tools.database.read() as connection:
                return turns.gives_way(connection, tools.owner, had_s)

        given_up = await run_in_threadpool(gives_way)
        if given_up is not None and given_up in self._runs:
            task = self._runs[given_up].task
            task.cancel()
            await asyncio.wait({task})

    async def _claim(self) -> Standing | None:
        tools = self._tools
        return await to_its_end(
            run_in_threadpool(
                tools.database.transact, lambda to: turns.claim(to, tools.owner, tools.settings.batch_lease_s)
            )
        )

    async def _run(self, run: BatchRun, standing: Standing) -> None:
        batch_id, counted, rest_s = standing.row.id, False, 0
        try:
            await run.go()
        except NotMine:
            structlog.get_logger().info("batch left to another gateway, or to later", batch=batch_id)
        except asyncio.CancelledError:
            counted = await self._engine_is_dead()  # maybe of one of the lines
            raise
        except ApiError as error:
            rest_s = leases.REST_S
            structlog.get_logger().warning("batch interrupted, it goes on later", batch=batch_id, error=error.message)
        except Exception:
            counted, rest_s = True, leases.REST_S
            structlog.get_logger().exception("batch interrupted by a defect", batch=batch_id)
        finally:
            del self._runs[batch_id]
            self._wake.set()
            with suppress(ApiError, sa.exc.SQLAlchemyError):  # then the lease runs out
                await to_its_end(run_in_threadpool(self._release, batch_id, counted=counted, rest_s=rest_s))

    async def _engine_is_dead(self) -> bool:
        try:
            await self._tools.engine.check_health()
        except Exception:  # whatever an engine raises then
            return True
        return False

    def _release(self, batch_id: str, *, counted: bool, rest_s: int) -> None:
        def release(connection: sa.Connection) -> None:
            leases.release(connection, batch_id, self._tools.owner, counted=counted, rest_s=rest_s)

        self._tools.database.transact(release)
