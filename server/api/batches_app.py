"""The gateway's side of batches, added to an app: their routes, and the runner that answers their lines.

One function adds all of it, after training, in whose storage their files are.
"""

from __future__ import annotations

from fastapi import FastAPI

from server.api.lifespan import run_within
from server.api.routes import batches
from server.batches.run import Tools
from server.batches.runner import BatchRunner
from server.core.settings import Settings
from server.db.database import Database
from server.engine.protocol import Engine
from server.inference.admission import max_batch_requests
from server.inference.early_check import EarlyCheck
from server.inference.usage_meter import UsageMeter
from server.training.files.storage import FileStorage


def add_batches(
    app: FastAPI,
    settings: Settings,
    engine: Engine,
    database: Database,
    files: FileStorage,
    check: EarlyCheck,
    meter: UsageMeter,
) -> None:
    """Add the routes and the runner; after the engine was mounted, within whose lifespan this runs, and the gateway."""
    window = max_batch_requests(settings, engine)
    draining = app.state.gateway.draining
    tools = Tools(app, engine, database, files, check, meter, settings, owner="", window=window, draining=draining)
    runner = BatchRunner(tools)
    app.state.batches = runner
    app.include_router(batches.router)
    run_within(app, runner.running())
