"""The gateway's side of training, added to an app: files, jobs, workers, graders.

One function adds all of it; the rest of the gateway does not know that there is training.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import httpx2
import openai
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from server.api.deps import Training
from server.api.lifespan import run_with
from server.api.routes import file_lines, files, fine_tuning, graders, job_creation, job_samples, uploads, worker
from server.core.settings import Settings
from server.db.database import Database
from server.limits.grader_runs import GraderRuns
from server.training.files.storage import FileStorage
from server.training.graders.build import GraderTools
from server.training.graders.tools import client_of_this_server, grader_tools
from server.training.jobs.config import Method
from server.training.jobs.metrics import JobMetrics

ROUTERS = (
    files.router,
    uploads.router,
    file_lines.router,
    graders.router,
    job_creation.router,
    fine_tuning.router,
    job_samples.router,
    worker.router,
)


def add_training(
    app: FastAPI,
    settings: Settings,
    database: Database,
    registry: CollectorRegistry,
    own_methods: Collection[Method],
) -> None:
    """Add the routes and what they need; after the engine was mounted, whose lifespan this goes around."""
    # Through the app and not the network: the same checks, quotas and queue, whatever address it listens on.
    inside = openai.DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(app))
    this_server = client_of_this_server("http://localhost", http_client=inside, max_retries=0)
    tools = grader_tools(settings, this_server)
    runs = GraderRuns(settings.max_grader_runs, settings.grader_runs_per_minute)
    training = Training(
        FileStorage(settings.files_url), JobMetrics(registry, database), tools, runs, frozenset(own_methods)
    )
    app.state.training = training
    for router in ROUTERS:
        app.include_router(router)
    run_with(app, _closing(tools))
    run_with(app, training.metrics.reading())


@asynccontextmanager
async def _closing(tools: GraderTools) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await tools.close()
        if tools.judge is not None:
            await tools.judge.close()
