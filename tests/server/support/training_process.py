"""A gateway as its database sees it, for training: what owners and workers do with jobs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from adapters.vector.recipe import Recipe
from server.core.ids import new_id
from server.core.principal import DEFAULT_TENANT_ID
from server.core.seals import Seals
from server.db.database import Database
from server.db.training_tables import JOBS
from server.training.files.rows import insert_file
from server.training.jobs.config import AnyConfig, ReinforcementConfig
from server.training.jobs.events import list_events
from server.training.jobs.leases import Leasing, claim
from server.training.jobs.lifecycle import NewJob, create_job, get_job
from server.training.jobs.progress import finish, report
from server.training.jobs.protocol import (
    ClaimAnswer,
    ClaimRequest,
    FinishAnswer,
    FinishRequest,
    LeaseAnswer,
    ReportedCheckpoint,
    ReportRequest,
    WorkerEvent,
)
from server.training.jobs.sampled_group import SampledGroup
from server.training.jobs.stranded import StrandedJobs
from server.training.jobs.unreadable import UnreadableJobs
from tests.server.support.fake_engine import MODULES
from tests.server.support.training_kit import vector

FACTORS = "a" * 64
T = TypeVar("T")


class TrainingProcess:
    """What one gateway does with the database for workers and owners."""

    def __init__(self, database: Database, most_sample_bytes: int = 2**20) -> None:
        self.database = database
        self.most_sample_bytes = most_sample_bytes
        self.unreadable = UnreadableJobs()
        self.stranded = StrandedJobs()

    def do(self, do: Callable[[Connection], T]) -> T:
        return self.database.transact(do)

    def new_file(self, tenant_id: int = DEFAULT_TENANT_ID) -> str:
        file_id = new_id("file-")
        values = {"filename": "f", "bytes": 1, "sha256": "0" * 64, "location": file_id, "created_at": 0}
        self.do(lambda to: insert_file(to, id=file_id, tenant_id=tenant_id, purpose="fine-tune", **values))
        return file_id

    def new_job(
        self,
        tenant_id: int = DEFAULT_TENANT_ID,
        *,
        waits: bool = True,
        factors: str = FACTORS,
        config: AnyConfig | None = None,
        most: int = 1000,
    ) -> str:
        """A job whose files have been validated, if it `waits`; `most` of the tenant may not have ended."""
        job_id = new_id("ftjob-")
        job = NewJob(
            id=job_id,
            model="base",
            factors=factors,
            training_file=self.new_file(tenant_id),
            validation_file=None,
            method={"type": "reinforcement"},
            config=config or ReinforcementConfig(recipe=Recipe(groups=len(MODULES)).to_dict()),
            init_vector=None,
            seed=1,
            metadata={},
            integrations=[],
            adapter_name=f"ft:{job_id}",
        )
        self.do(lambda to: create_job(to, tenant_id, None, job, most))
        if waits:
            self.set(job_id, status="queued", total_steps=4)
        return job_id

    def set(self, job_id: str, **values: object) -> None:
        self.do(lambda to: to.execute(JOBS.update().where(JOBS.c.id == job_id).values(**values)))

    def status(self, job_id: str) -> str:
        return str(self.do(lambda to: get_job(to, DEFAULT_TENANT_ID, job_id)).status)

    def claim(self, worker: str, capacity: int = 1, running: tuple[str, ...] = (), **fields: Any) -> ClaimAnswer:
        request = ClaimRequest(
            worker=worker, base_model="base", factors=FACTORS, capacity=capacity, running=list(running), **fields
        )
        leasing = Leasing(self.database, 30, "base", Seals(()), self.unreadable, self.stranded)
        return self.do(lambda to: claim(leasing, to, request))

    def claimed(self, worker: str, capacity: int = 1, **fields: Any) -> list[str]:
        return [job.id for job in self.claim(worker, capacity, **fields).jobs]

    def report(
        self,
        worker: str,
        job_id: str,
        step: int,
        reward: float | None = None,
        samples: Sequence[SampledGroup] = (),
        **checkpoint: Any,
    ) -> tuple[LeaseAnswer, bool]:
        """A step; one with a reward was evaluated, and is published."""
        fields = {"vector": vector(step), "optimizer": base64.b64encode(b"adam").decode(), "state": {"step": step}}
        request = ReportRequest(
            worker=worker,
            step=step,
            checkpoint=ReportedCheckpoint.model_validate({**fields, "publish": reward is not None, **checkpoint}),
            metrics={} if reward is None else {"valid_reward_mean": reward},
            trained_tokens=10,
            events=[WorkerEvent(message=f"step {step}")],
            samples=list(samples),
        )
        return self.do(lambda to: report(self.database, to, job_id, request, 30, self.most_sample_bytes))

    def finish(self, worker: str, job_id: str, status: str, **fields: Any) -> FinishAnswer:
        request = FinishRequest.model_validate({"worker": worker, "status": status, **fields})
        return self.do(lambda to: finish(self.database, to, job_id, request))[0]

    def succeed(self, worker: str, job_id: str) -> FinishAnswer:
        return self.finish(worker, job_id, "succeeded", best={"vector": vector(0.25), "step": 1})

    def events(self, job_id: str) -> list[str]:
        """Oldest first."""
        rows, _ = self.do(lambda to: list_events(to, job_id, after=None, limit=1000))
        return [row.message for row in rows][::-1]

    def expire(self, job_id: str) -> None:
        self.set(job_id, lease_expires_at=1)
