"""A job's numbers as curves: TensorBoard's event files, and Weights & Biases for jobs that ask for it.

Design decision: these are copies. The gateway's events are the record, so what was written before a job went on from an
older step is overwritten, and a tracker that fails costs its own lines and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from server.training.job_data import wandb_settings
from server.worker_protocol import ClaimedJob

log = structlog.get_logger(__name__)


class Tracker(Protocol):
    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Trackers:
    """Those of one job, which goes on behind `step`."""

    def __init__(self, job: ClaimedJob, log_dir: Path | None, step: int) -> None:
        self._trackers: list[Tracker] = []
        self._attempt(lambda: self._open(job, log_dir, step))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            self._attempt(lambda tracker=tracker: tracker.write(step, metrics))

    def close(self) -> None:
        for tracker in self._trackers:
            self._attempt(tracker.close)

    def _open(self, job: ClaimedJob, log_dir: Path | None, step: int) -> None:
        if log_dir is not None:
            self._trackers.append(TensorBoard(log_dir / job.id, step))
        if (settings := wandb_settings(job)) is not None:
            self._trackers.append(Wandb(job, settings))

    def _attempt(self, work: Any) -> None:
        try:
            work()
        except Exception:  # Whatever a disk or somebody else's service does, training goes on.
            log.exception("tracking_failed")


class TensorBoard:
    """Event files in `directory`."""

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run whose id is the job's, so that another worker goes on with it."""

    def __init__(self, job: ClaimedJob, settings: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        tags: Sequence[str] = settings.get("tags") or ()
        self._run = wandb.init(
            project=settings["project"],
            entity=settings.get("entity"),
            name=settings.get("name") or job.id,
            tags=list(tags),
            id=job.id,
            resume="allow",
            config={"model": job.model, "seed": job.seed, **job.config.model_dump()},
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()
