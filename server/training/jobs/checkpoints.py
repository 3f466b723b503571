"""Checkpoints: where a job continues, and those of its vectors that can be served.

Of the last step everything is kept; of earlier ones only published vectors, and of those the best three and the last. A
published checkpoint is an adapter of the tenant, stored in the same transaction as the checkpoint.

Functions of a connection that holds the job's row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
import torch
from pydantic import ValidationError
from sqlalchemy.engine import Connection, Row

from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError
from server.core.clock import now
from server.core.errors import BadRequest, NotFound
from server.core.ids import check_after, new_id
from server.core.metadata import MAX_PAIRS
from server.core.names import Reference
from server.db.database import Database
from server.db.training_tables import JOB_CHECKPOINTS
from server.registry.creation import NewVersion, create_versions, lock_adapters
from server.registry.deletion import purge
from server.registry.versions import StoredVersion
from server.training.jobs.config import JOB_CONFIG
from server.training.jobs.events import add_event
from server.training.jobs.names import checkpoint_name
from server.training.jobs.protocol import ReportedCheckpoint

PREFIX = "ftckpt_"
KEPT_BEST = 3
ADAPTER_LIMIT = "adapter_limit_reached"
# Metrics by which checkpoints are compared, the first that there is; and whether more of it is better.
_SCORES = (("valid_reward_mean", 1), ("valid_loss", -1), ("train_reward_mean", 1), ("train_loss", -1))


def store_checkpoint(
    database: Database,
    connection: Connection,
    job: Row[Any],
    step: int,
    reported: ReportedCheckpoint,
    metrics: Mapping[str, float],
) -> None:
    """Store the checkpoint behind a step, publish it if asked for, and remove what need not be kept any more.

    BadRequest when its vector does not fit the job's recipe. When the tenant may have no more adapters it is stored
    unpublished, and an event says so.
    """
    vector = checked_vector(job, reported.vector, "checkpoint.vector")
    published = None
    withdrawn = _withdrawn(connection, job, step, metrics if reported.publish else None)
    if reported.publish:
        name = checkpoint_name(job.adapter_name, step)
        # All of them, before the first is changed, so that every transaction locks them in the same order.
        names = {name, *(row.adapter_name for row in withdrawn)}
        lock_adapters(database, connection, job.tenant_id, names)
        published = publish(database, connection, job, name, vector, step, metrics)
        if published is None:
            _say_unpublished(connection, job, step)
    connection.execute(
        JOB_CHECKPOINTS.insert().values(
            id=new_id(PREFIX),
            job_id=job.id,
            step=step,
            created_at=now(),
            metrics=json.dumps(metrics),
            adapter_name=None if published is None else published.name,
            adapter_version=None if published is None else published.version,
            vector=vector.numpy().tobytes(),
            optimizer=reported.optimizer,
            state=json.dumps(reported.state),
        )
    )
    is_old = sa.and_(JOB_CHECKPOINTS.c.job_id == job.id, JOB_CHECKPOINTS.c.step < step)
    connection.execute(JOB_CHECKPOINTS.delete().where(is_old, JOB_CHECKPOINTS.c.adapter_name.is_(None)))
    connection.execute(JOB_CHECKPOINTS.update().where(is_old).values(optimizer=b"", state="{}"))
    if published is not None:
        for row in withdrawn:
            _withdraw(connection, job, row)


def publish_last(database: Database, connection: Connection, job: Row[Any]) -> None:
    """Publish what a job that ends without a result has learned: the checkpoint of its last step, if it has taken one.

    When the tenant may have no more adapters, or this version cannot read the job, it stays unpublished, and an event
    says so.
    """
    rows = sa.select(JOB_CHECKPOINTS).where(
        JOB_CHECKPOINTS.c.job_id == job.id, JOB_CHECKPOINTS.c.step == job.step, JOB_CHECKPOINTS.c.step > 0
    )
    last = connection.execute(rows).one_or_none()
    if last is None or last.adapter_name is not None:
        return
    name = checkpoint_name(job.adapter_name, last.step)
    try:
        vector = checked_vector(job, last.vector, "checkpoint.vector")
    except ValidationError:
        message = (
            f"The checkpoint of step {last.step} cannot be served: this version of the server cannot read the job."
        )
        add_event(connection, job.id, message, level="warn")
        return
    published = publish(database, connection, job, name, vector, last.step, json.loads(last.metrics))
    if published is None:
        _say_unpublished(connection, job, last.step)
        return
    add_event(connection, job.id, f"The vector of its last step, {last.step}, is kept as {name}")
    names = {"adapter_name": published.name, "adapter_version": published.version}
    connection.execute(JOB_CHECKPOINTS.update().where(JOB_CHECKPOINTS.c.id == last.id).values(**names))


def publish(
    database: Database,
    connection: Connection,
    job: Row[Any],
    name: str,
    vector: torch.Tensor,
    step: int,
    metrics: Mapping[str, float],
) -> StoredVersion | None:
    """Store `vector` (float32 (groups, u)) as a version of the adapter `name`, in the job's dtype.

    None when the tenant may have no more adapters.
    """
    config = JOB_CONFIG.validate_json(job.config)
    adapter = Adapter.from_vector(vector, config.parsed_recipe, job.factors, config.dtype)
    about = {"fine_tuning_job": job.id, "base_model": job.model, "method": config.method, "step": str(step)}
    scores = [name for name, _ in _SCORES if name in metrics]
    about |= {key: f"{metrics[key]:.6g}" for key in [*scores, *sorted(metrics)] if key not in about}
    metadata = dict(list(about.items())[:MAX_PAIRS])
    try:
        with connection.begin_nested():
            (entry,) = create_versions(database, connection, job.tenant_id, [NewVersion(name, adapter, metadata)])
    except BadRequest as error:
        if error.code != ADAPTER_LIMIT:
            raise
        return None
    return entry.stored


def _say_unpublished(connection: Connection, job: Row[Any], step: int) -> None:
    message = f"The checkpoint of step {step} cannot be served: the tenant has as many adapters as it may have."
    add_event(connection, job.id, message, level="warn")


def checked_vector(job: Row[Any], data: bytes, param: str) -> torch.Tensor:
    """The vector in `data`, float32 (groups, u). BadRequest when it does not fit the recipe or is not finite."""
    config = JOB_CONFIG.validate_json(job.config)
    recipe = config.parsed_recipe
    try:
        vector = Adapter(recipe, job.factors, "float32", data).vector()
        Adapter.from_vector(vector, recipe, job.factors, config.dtype)
    except AdapterError as error:
        raise BadRequest(f"{param}: {error.message}", param=param, code="invalid_vector") from error
    return vector


def list_checkpoints(
    connection: Connection, job_id: str, *, after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], bool]:
    """(published checkpoints of a job, newest first, after the id `after`; whether there are more)."""
    rows = sa.select(JOB_CHECKPOINTS).where(
        JOB_CHECKPOINTS.c.job_id == job_id, JOB_CHECKPOINTS.c.adapter_name.is_not(None)
    )
    if after is not None:
        check_after(after, PREFIX, "a checkpoint")
        rows = rows.where(JOB_CHECKPOINTS.c.id < after)
    found = connection.execute(rows.order_by(JOB_CHECKPOINTS.c.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def _withdrawn(
    connection: Connection, job: Row[Any], step: int, metrics: Mapping[str, float] | None
) -> Sequence[Row[Any]]:
    """The published checkpoints to remove when one with `metrics` is published; none when that is None."""
    if metrics is None:
        return []
    rows = sa.select(JOB_CHECKPOINTS).where(
        JOB_CHECKPOINTS.c.job_id == job.id, JOB_CHECKPOINTS.c.adapter_name.is_not(None)
    )
    published = connection.execute(rows.order_by(JOB_CHECKPOINTS.c.step)).all()
    scores = {row.id: score(json.loads(row.metrics)) for row in published} | {None: score(metrics)}
    best = sorted(scores, key=lambda row_id: scores[row_id], reverse=True)[:KEPT_BEST]
    return [row for row in published if row.id not in best]


def score(metrics: Mapping[str, float]) -> tuple[int, float]:
    """The key by which checkpoints are compared; higher is better."""
    for rank, (name, sign) in enumerate(_SCORES):
        if name in metrics:
            return -rank, sign * metrics[name]
    return -len(_SCORES), -math.inf


def _withdraw(connection: Connection, job: Row[Any], checkpoint: Row[Any]) -> None:
    # Refused when its owner has purged it, or keeps it with an alias.
    with suppress(NotFound, BadRequest):
        purge(connection, job.tenant_id, Reference(checkpoint.adapter_name, version=checkpoint.adapter_version))
    connection.execute(JOB_CHECKPOINTS.delete().where(JOB_CHECKPOINTS.c.id == checkpoint.id))
