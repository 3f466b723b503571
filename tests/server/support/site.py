"""A gateway over an engine that samples, the official client of a tenant, and workers: all in one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import sqlalchemy as sa
from fastapi import FastAPI

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.db.training_tables import JOB_CHECKPOINTS, JOBS
from server.endpoints.endpoint_client import EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.training.graders.build import GraderTools
from server.training.graders.math_pool import MathPool
from server.training.jobs.config import METHODS, Method
from server.training.worker.context import WorkerTools
from server.training.worker.device_memory import DeviceMemory
from server.training.worker.gateway_client import GatewayClient
from server.training.worker.http_retry import RetryPolicy
from server.training.worker.loop import GRACE_S, Worker
from server.training.worker.rollout import RolloutClient
from server.training.worker.trainer import Trainer
from tests.adapters.tiny_models import SHAPE, load_model
from tests.server.conftest import client_of
from tests.server.support.sampling_engine import NAME, TOOLS_TEMPLATE, SamplingEngine, tiny_tokenizer

IMPATIENT = RetryPolicy(first_delay_s=0.01, max_delay_s=0.05, max_attempts=2)
CONTAINS = {
    "type": "string_check",
    "name": "contains",
    "operation": "like",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
# Tells nearly any two completions apart.
SIMILAR = {
    "type": "text_similarity",
    "name": "similar",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


@dataclass
class Site:
    """`lines` are what workers have told."""

    path: Path
    factors: Factors
    engine: SamplingEngine
    app: FastAPI
    database: Database
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI
    log_dir: Path
    lines: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def worker(
        self,
        name: str = "w",
        max_jobs: int = 4,
        http: httpx.AsyncClient | None = None,
        memory: DeviceMemory | None = None,
        can_load: bool = True,
        check_memory: Callable[[], None] = lambda: None,
        grace_s: float = GRACE_S,
    ) -> AsyncIterator[Worker]:
        """A running worker, killed at the end if it has not ended. memory: as the Trainer's.

        can_load: whether it could read the model's weights. check_memory: called before it does. grace_s: of its last
        steps.
        """
        http = http or self.http

        def load() -> TrainableAdapters:
            assert can_load, "nothing of this needs the weights"
            check_memory()
            return TrainableAdapters(load_model(self.path), self.factors)

        trainer = Trainer(load, memory=memory)
        tools = WorkerTools(
            base_model=NAME,
            factors=self.factors.digest,
            gateway=GatewayClient(http, IMPATIENT),
            trainer=trainer,
            rollouts=RolloutClient(http, retry_policy=IMPATIENT),
            graders=GraderTools(MathPool(), endpoints=EndpointClient(AllowedHosts("localhost"), first_delay_s=0.001)),
            tokenizer=tiny_tokenizer(TOOLS_TEMPLATE),
            max_tokens=SHAPE["max_position_embeddings"],
            log_dir=self.log_dir,
        )
        worker = Worker(name, tools, self.lines.append, max_jobs=max_jobs, poll_s=0.02, pause_s=0.2)
        task = asyncio.create_task(worker.run(grace_s))
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            trainer.close()
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]

    async def train_with_kills(self, job_id: str) -> None:
        """Train the job to its end by three workers; two are killed, behind steps 1 and 3 at the earliest."""
        for step in (1, 3):
            async with self.worker(f"killed-{step}"):
                await self.wait(job_id, lambda job, step=step: (job.step or 0) >= step)
            self.expire_lease(job_id)
        async with self.worker("last"):
            await self.wait(job_id, "succeeded")

    async def file(self, rows: Sequence[Mapping[str, Any]] | str) -> str:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        return (await self.client.files.create(file=("rows.jsonl", text.encode()), purpose="fine-tune")).id

    async def job(
        self,
        rows: Sequence[Mapping[str, Any]] | str,
        grader: Mapping[str, Any] | None = None,
        seed: int = 1,
        integrations: Any = openai.omit,
        method: str = "reinforcement",
        model: str = NAME,
        environment: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> str:
        """The id of a new job, supervised without a grader, else of `method`."""
        how: Any = {"type": "supervised"}
        if grader is not None:
            how = {"type": method, method: {"grader": grader}}
            if environment is not None:
                how[method]["environment"] = environment
        job = await self.client.fine_tuning.jobs.create(
            model=model,
            training_file=await self.file(rows),
            method=how,
            seed=seed,
            integrations=integrations,
            extra_body={"tinylora": settings},
        )
        return job.id

    async def wait(self, job_id: str, until: Callable[[Any], bool] | str, seconds: float = 60) -> Any:
        """The job when it has the status `until`, or is as `until` says; fails when it has ended otherwise."""
        async with asyncio.timeout(seconds):
            while True:
                job = await self.client.fine_tuning.jobs.retrieve(job_id)
                if job.status == until if isinstance(until, str) else until(job):
                    return job
                assert job.status not in ("succeeded", "failed", "cancelled"), (job.status, job.error, self.lines)
                await asyncio.sleep(0.01)

    async def events(self, job_id: str) -> list[Any]:
        """Oldest first."""
        page = await self.client.fine_tuning.jobs.list_events(job_id, limit=100)
        return list(reversed(page.data))

    async def samples(self, job_id: str, **query: Any) -> list[dict[str, Any]]:
        """Oldest step first, without ids and times."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"has_more": True, "last_id": None}
        while page["has_more"]:
            asked = {"order": "asc", "limit": 100, **query} | ({"after": page["last_id"]} if page["last_id"] else {})
            page = (await self.http.get(f"/v1/fine_tuning/jobs/{job_id}/samples", params=asked)).json()
            found += page["data"]
        own = ("id", "created_at", "fine_tuning_job_id")
        return [{name: value for name, value in sample.items() if name not in own} for sample in found]

    def vectors(self, job_id: str) -> dict[int, list[float]]:
        """The trained numbers, exactly, by step; of old steps there are some."""
        kept = sa.select(JOB_CHECKPOINTS.c.step, JOB_CHECKPOINTS.c.vector).where(JOB_CHECKPOINTS.c.job_id == job_id)
        with self.database.read() as connection:
            return {row.step: np.frombuffer(row.vector, "<f4").tolist() for row in connection.execute(kept)}

    def expire_lease(self, job_id: str) -> None:
        """As if the worker had been silent for long."""
        with self.database.write() as connection:
            connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(lease_expires_at=0))


class Line(httpx.AsyncBaseTransport):
    """A connection to the gateway that the test can cut: while `is_cut`, nothing gets through, and never requests
    whose path ends as `loses` says."""

    def __init__(self, app: FastAPI) -> None:
        self._app = httpx.ASGITransport(app)
        self.is_cut = False
        self.loses: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_cut or (self.loses is not None and request.url.path.endswith(self.loses)):
            raise httpx.ConnectError("the line is cut")
        return await self._app.handle_async_request(request)


@asynccontextmanager
async def site(
    tmp_path: Path, path: Path, factors: Factors, own_methods: Sequence[Method] = METHODS, **settings: Any
) -> AsyncIterator[Site]:
    settings = {
        "database_url": f"sqlite:///{tmp_path}/tinylora.db",
        "files_url": f"{tmp_path}/files",
        "worker_lease_s": 5,
        "log_format": "json",
        **settings,
    }
    database, engine = Database(settings["database_url"]), SamplingEngine(path, factors)
    app = create_app(Settings(**settings), engine, database, own_methods=own_methods)
    async with client_of(app) as http:
        client = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)
        yield Site(path, factors, engine, app, database, http, client, tmp_path / "logs")
    await app.state.gateway.reads.close()
    database.close()


def rows(count: int, answer: str = "w9") -> list[dict[str, Any]]:
    """Prompts of one word each."""
    return [
        {"messages": [{"role": "user", "content": f"w{10 + index % 50}"}], "answer": answer} for index in range(count)
    ]
