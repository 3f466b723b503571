"""A worker: claims jobs of the gateway, trains several at a time on one model, and reports their end.

The claim is the heartbeat: every few seconds it renews the leases of all running jobs and brings back new jobs and what
is wanted of the running ones. A job that is to stop is cancelled at once; its unfinished step is taken again later,
with the same result. A worker that is to end finishes the running steps, those that do not take too long, and gives the
jobs back.

A worker that cannot load the model gives jobs back, and asks for none that need it for a while, then for longer. One
whose disk does not take a job's files does so, too, and asks for none at all; but it drops a job whose files are larger
than that disk.
An unexpected exception ends that job's run here, which is among its events, and its lease expires. The gateway counts
such runs, and fails a job when several in a row ended without a step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import structlog
from pydantic import ValidationError

from server.core.background import cancelled
from server.core.errors import ApiError
from server.limits.fair_semaphore import TenantSemaphores
from server.training.jobs.config import METHODS, Method, needs_weights
from server.training.jobs.protocol import ClaimAnswer, ClaimedJob, ClaimRequest, FinishRequest, Wanted
from server.training.worker.context import WorkerContext, WorkerTools
from server.training.worker.gateway_client import CannotStore, DiskTooSmall, LeaseLost
from server.training.worker.growing_pause import GrowingPause
from server.training.worker.http_retry import GatewayRefused
from server.training.worker.job_run import JobRun
from server.training.worker.outcome import dropped, given_back
from server.training.worker.pass_size import DoesNotFitNow
from server.training.worker.tokenizer_check import OtherTokenizer
from server.training.worker.trainer import CannotLoad

MAX_BACKOFF_S = 30.0
# Whose files are read beside the jobs that are trained: these may take hours, and reading takes little.
MAX_VALIDATING = 4
# Of running steps, when the worker is to end.
GRACE_S = 30.0
# For the last word of a worker that ends; nobody waits longer for it.
GIVE_BACK_S = 5.0
logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _RunningJob:
    """A job and the task that works on it. `wanted` says why the task was cancelled, "run" before."""

    job: ClaimedJob
    task: asyncio.Task[None]
    wanted: Wanted = "run"


@dataclass(slots=True)
class Worker:
    """A worker process.

    name: of this process alone, never used again. log: called with a line of text for the operator.
    methods: of the jobs that it does. max_jobs: trained together. max_grading: completions of a
    tenant graded at once.
    poll_s: seconds between two claims; less when a third of a lease is less.
    pause_s: before it is tried again to read the model's weights, or to store a job's files; longer every time.
    """

    name: str
    tools: WorkerTools
    log: Callable[[str], None]
    methods: Sequence[Method] = METHODS
    max_jobs: int = 4
    poll_s: float = 5.0
    max_grading: int = 16
    pause_s: float = 60.0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _running: dict[str, _RunningJob] = field(init=False, default_factory=dict)
    _reasoning: bool = field(init=False, default=False)
    _max_step_tokens: int | None = field(init=False, default=None)
    _loading_pause: GrowingPause = field(init=False)
    _storing_pause: GrowingPause = field(init=False)
    _job_ended: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _context: WorkerContext = field(init=False)
    _grading_semaphore: TenantSemaphores = field(init=False)

    def __post_init__(self) -> None:
        self._context = WorkerContext(self.name, self.tools, self.stopping, self.log)
        self._grading_semaphore = TenantSemaphores(self.max_grading)
        self._loading_pause, self._storing_pause = GrowingPause(self.pause_s), GrowingPause(self.pause_s)

    @property
    def running(self) -> list[str]:
        """The ids of the jobs that it works on."""
        return sorted(self._running)

    async def run(self, grace_s: float = GRACE_S) -> None:
        """Work until `stopping` is set, then give the jobs back; steps that run have `grace_s` seconds to end."""
        stopped = asyncio.create_task(self.stopping.wait())
        backoff_s, poll_s = 0.0, self.poll_s
        try:
            while not self.stopping.is_set():
                answer = await self._claim()
                if answer is None:
                    backoff_s = min(MAX_BACKOFF_S, max(self.poll_s, 2 * backoff_s))
                else:
                    backoff_s, poll_s = 0.0, min(self.poll_s, answer.lease_s / 3)
                    for job in answer.jobs:
                        self._start(job)
                await self._wait(backoff_s or poll_s, stopped)
            await self._drain(grace_s)
            await self._give_back()
        finally:
            stopped.cancel()
            await self._cancel_all()

    async def _claim(self) -> ClaimAnswer | None:
        """Renew the leases and ask for jobs; None when the gateway gave no answer."""
        methods, takes_jobs = self._methods(), not self.stopping.is_set() and not self._storing_pause.runs
        trained = sum(running.job.status == "running" for running in self._running.values())
        request = ClaimRequest(
            worker=self.name,
            base_model=self.tools.base_model,
            factors=self.tools.factors,
            methods=methods or list(self.methods),
            capacity=max(0, self.max_jobs - trained) if methods and takes_jobs else 0,
            validating=max(0, MAX_VALIDATING - (len(self._running) - trained)) if takes_jobs else 0,
            running=self.running,
        )
        try:
            answer = await self.tools.gateway.claim(request)
        # The last two: an answer of another version.
        except (httpx.HTTPError, GatewayRefused, ValidationError, ApiError) as error:
            self.log(f"the gateway gave no work: {str(error) or type(error).__name__}")
            return None
        self._reasoning, self._max_step_tokens = answer.reasoning, answer.max_step_tokens
        for job_id, lease in answer.running.items():
            if lease.wanted != "run":
                self._interrupt(job_id, lease.wanted)
        return answer

    def _interrupt(self, job_id: str, wanted: Wanted) -> None:
        running = self._running.get(job_id)
        if running is not None and running.wanted == "run":
            running.wanted = wanted
            running.task.cancel()

    async def _wait(self, seconds: float, stopped: asyncio.Task[Any]) -> None:
        """Sleep for `seconds`, or until a job has ended or the worker is to stop."""
        self._job_ended.clear()
        job_ended = asyncio.create_task(self._job_ended.wait())
        await asyncio.wait((job_ended, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        job_ended.cancel()

    async def _drain(self, grace_s: float) -> None:
        """Wait at most `grace_s` seconds for running steps to end, renewing the leases meanwhile."""
        end = time.monotonic() + grace_s
        while self._running and time.monotonic() < end:
            tasks = [running.task for running in self._running.values()]
            timeout = min(self.poll_s, max(0.0, end - time.monotonic()))
            await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.ALL_COMPLETED)
            if self._running and time.monotonic() < end:
                await self._claim()

    async def _give_back(self) -> None:
        """End the steps that still run, and have others go on with their jobs at once."""
        left = [running for running in self._running.values() if running.wanted == "run"]
        for running in left:
            # Its pass may run on for long, but nobody reports it any more.
            self._interrupt(running.job.id, "lost")
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S):
                await asyncio.gather(*(self._release(running.job) for running in left))

    async def _release(self, job: ClaimedJob) -> None:
        self.log(f"{job.id} ({job.tenant}) is given back in the middle of a step, which takes too long to wait for")
        with suppress(LeaseLost, GatewayRefused):
            await self.tools.gateway.finish(job.id, FinishRequest(worker=self.name, status="released"))

    async def _cancel_all(self) -> None:
        for running in self._running.values():
            running.wanted = "lost"
        await cancelled(running.task for running in self._running.values())

    def _start(self, job: ClaimedJob) -> None:
        # The lease was lost and claimed again while the old run is still ending.
        if job.id in self._running:
            self._interrupt(job.id, "lost")
            return
        task = asyncio.create_task(self._run_job(job), name=job.id)
        self._running[job.id] = _RunningJob(job, task)

        def ended(_: asyncio.Task[None]) -> None:
            del self._running[job.id]
            self._job_ended.set()

        task.add_done_callback(ended)

    async def _run_job(self, job: ClaimedJob) -> None:
        try:
            run = JobRun(
                job,
                self._context,
                self._grading_semaphore,
                self._reasoning,
                self._max_step_tokens,
                self._storing_pause.reset,
            )
            await run.run()
        except asyncio.CancelledError:
            await self._report_stopped(job)
        except LeaseLost as error:
            self.log(f"{job.id} ({job.tenant}) is dropped: {error}")
        except CannotLoad as error:
            await self._pause(self._loading_pause, job, str(error), "can load the model")
        except CannotStore as error:
            await self._pause(self._storing_pause, job, str(error), "has room for its files")
        except (DiskTooSmall, DoesNotFitNow, OtherTokenizer) as error:
            await self._drop(job, str(error))
        except GatewayRefused as error:
            await self._drop(job, f"the gateway refuses ({error.status}): {error.message}")
        except Exception as error:  # It ends this job's run and no other; see the module.
            logger.exception("job_failed", job=job.id)
            await self._drop(job, f"an error in the worker ({type(error).__name__}), which is in its log")

    async def _pause(self, pause: GrowingPause, job: ClaimedJob, why: str, other: str) -> None:
        """Give the job to a worker that `other`, and ask for none of its kind as long as the pause runs."""
        pause.begin()
        self.log(f"{job.id} ({job.tenant}) is given back, the next is asked for in {pause.seconds:.0f} s: {why}")
        with suppress(LeaseLost, GatewayRefused):
            await self.tools.gateway.finish(job.id, given_back(self.name, why, other))

    def _methods(self) -> list[Method]:
        """Of the jobs that it can do now."""
        loads = not self._loading_pause.runs
        return [method for method in self.methods if loads or not needs_weights([method])]

    async def _drop(self, job: ClaimedJob, why: str) -> None:
        """Tell the operator and the job's owner. The lease is kept: what failed may be over when it has run out."""
        self.log(f"{job.id} ({job.tenant}) is dropped: {why}")
        with suppress(LeaseLost, GatewayRefused):
            await self.tools.gateway.finish(job.id, dropped(self.name, why))

    async def _report_stopped(self, job: ClaimedJob) -> None:
        """Tell the gateway that a job was paused or cancelled, if that is why its task was."""
        wanted = self._running[job.id].wanted
        self.log(f"{job.id} ({job.tenant}) stops: {wanted}")
        status: dict[Wanted, Literal["paused", "cancelled"]] = {"pause": "paused", "cancel": "cancelled"}
        if wanted in status:
            request = FinishRequest(worker=self.name, status=status[wanted], events=[])
            with suppress(LeaseLost, GatewayRefused):
                await self.tools.gateway.finish(job.id, request)
