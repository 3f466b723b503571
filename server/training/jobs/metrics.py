"""Prometheus metrics of training.

The number of jobs in each state is read from the database when metrics are collected, so it is right after a restart
and the same on every gateway (take the maximum over gateways, not the sum). Steps are counted where they are reported
(take the sum). The latest metrics of running jobs (reward, loss, KL, ...) are gauges too, of the newest jobs only,
because every job is a label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from server.core.errors import Unavailable
from server.db.database import Database
from server.db.training_tables import JOB_CHECKPOINTS, JOBS
from server.training.jobs.protocol import Phase
from server.training.states import STATUSES

MOST_LABELLED_JOBS = 50


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
        for gauge in (
            _FromDatabase(database, "tinylora_training_jobs", "Training jobs, by status.", ["status"], _jobs_by_status),
            _FromDatabase(database, "tinylora_training_job_latest", text, ["training_job", "number"], _latest_numbers),
        ):
            registry.register(gauge)

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
    """A gauge whose values are read from the database when metrics are collected."""

    def __init__(
        self,
        database: Database,
        name: str,
        text: str,
        labels: Sequence[str],
        samples: Callable[[sa.Connection], Iterable[tuple[list[str], float]]],
    ) -> None:
        self._database, self._samples = database, samples
        self._name, self._text, self._labels = name, text, labels

    def describe(self) -> Iterable[Metric]:
        """The family without values: the database may not be there when the app is made."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        try:
            with self._database.read() as connection:
                samples = list(self._samples(connection))
        except Unavailable:
            # Without a database the other metrics are needed most.
            return [family]
        for labels, value in samples:
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
        .join(JOB_CHECKPOINTS, (JOB_CHECKPOINTS.c.job_id == JOBS.c.id) & (JOB_CHECKPOINTS.c.step == JOBS.c.step))
        .where(JOBS.c.status == "running")
        .order_by(JOBS.c.id.desc())
        .limit(MOST_LABELLED_JOBS)
    )
    return [
        ([row.id, name], value)
        for row in connection.execute(latest)
        for name, value in {"step": row.step, **json.loads(row.metrics)}.items()
    ]
