"""Prometheus metrics of training.

The number of jobs in each state is read from the database, so it is right after a restart and the same on every
gateway (take the maximum over gateways, not the sum). It is read now and then and not when metrics are collected: the
other metrics are needed most when the database does not answer, and a scrape that waits for it brings none. Steps are
counted where they are reported (take the sum). The latest metrics of running jobs (reward, loss, KL, ...) are gauges
too, of the newest jobs only, because every job is a label.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from time import monotonic

import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from server.core.background import repeating
from server.core.errors import ApiError
from server.db.database import Database
from server.db.training_tables import JOB_CHECKPOINTS, JOBS
from server.training.jobs.protocol import Phase
from server.training.states import STATUSES

MOST_LABELLED_JOBS = 50
READ_S = 15.0
OLD_S = 4 * READ_S


class JobMetrics:
    """The metrics of one app. Safe to use from any thread."""

    def __init__(self, registry: CollectorRegistry, database: Database) -> None:
        self._steps = Counter("tinylora_training_steps", "Steps that workers reported.", registry=registry)
        self._tokens = Counter("tinylora_training_tokens", "Tokens trained on.", registry=registry)
        self._seconds = Counter(
            "tinylora_training_seconds",
            "What steps took, by phase, added up over jobs, which run at the same time. Grading is the time after the "
            "last completion, for graders work while the engine samples.",
            ("phase",),
            registry=registry,
        )
        self._finished = Counter(
            "tinylora_training_jobs_finished", "Jobs that workers ended, by outcome.", ("status",), registry=registry
        )
        text = f"The numbers of the last step, by name, of the {MOST_LABELLED_JOBS} newest running jobs."
        self._database = database
        self._read_ones = (
            _FromDatabase("tinylora_training_jobs", "Training jobs, by status.", ["status"], _jobs_by_status),
            _FromDatabase("tinylora_training_job_latest", text, ["training_job", "number"], _latest_numbers),
        )
        for gauge in self._read_ones:
            registry.register(gauge)

    def reading(self, every_s: float = READ_S) -> AbstractAsyncContextManager[None]:
        """Reads what is in the database now and then while the block runs."""
        return repeating(self._read, first_s=0, every_s=every_s)

    async def _read(self, _ended: asyncio.Event) -> None:
        await asyncio.to_thread(self.read)

    def read(self) -> None:
        """Read what is in the database. Blocks. Without an answer the numbers stay, until they are old."""
        try:
            with self._database.read() as connection:
                for gauge in self._read_ones:
                    gauge.read(connection)
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            structlog.get_logger().warning("numbers of training jobs not read", error=str(error))

    def observe_step(self, tokens: int, seconds: Mapping[Phase, float]) -> None:
        """Count one new step of `tokens` trained tokens; `seconds` by phase."""
        self._steps.inc()
        self._tokens.inc(tokens)
        for phase, spent in seconds.items():
            self._seconds.labels(phase).inc(spent)

    def observe_finished(self, status: str) -> None:
        """Count one job that ended as "succeeded" or "failed"."""
        self._finished.labels(status).inc()


class _FromDatabase:
    """A gauge whose values are those that were last read from the database; none when that is long ago."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        samples: Callable[[sa.Connection], Iterable[tuple[list[str], float]]],
    ) -> None:
        self._name, self._text, self._labels, self._samples = name, text, labels, samples
        self._last: list[tuple[list[str], float]] = []
        self._read_at = -OLD_S

    def read(self, connection: sa.Connection) -> None:
        self._last, self._read_at = list(self._samples(connection)), monotonic()

    def describe(self) -> Iterable[Metric]:
        """The family without values."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        if monotonic() - self._read_at < OLD_S:
            for labels, value in self._last:
                family.add_metric(labels, value)
        return [family]

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._name, self._text, labels=self._labels)


def _jobs_by_status(connection: sa.Connection) -> Iterable[tuple[list[str], float]]:
    rows = connection.execute(sa.select(JOBS.c.status, sa.func.count().label("jobs")).group_by(JOBS.c.status))
    counts = {row.status: row.jobs for row in rows}
    return [([status], counts.get(status, 0)) for status in STATUSES]


def _latest_numbers(connection: sa.Connection) -> Iterable[tuple[list[str], float]]:
    latest = (
        sa.select(JOBS.c.id, JOBS.c.step, JOB_CHECKPOINTS.c.metrics)
        .outerjoin(JOB_CHECKPOINTS, (JOB_CHECKPOINTS.c.job_id == JOBS.c.id) & (JOB_CHECKPOINTS.c.step == JOBS.c.step))
        .where(JOBS.c.status == "running")
        .order_by(JOBS.c.id.desc())
        .limit(MOST_LABELLED_JOBS)
    )
    return [
        ([row.id, name], value)
        for row in connection.execute(latest)
        for name, value in {"step": row.step or 0, **json.loads(row.metrics or "{}")}.items()
    ]
