"""A job's metrics as curves: TensorBoard event files, and Weights & Biases for jobs that ask for it.

These are copies; the gateway's events are the record. In TensorBoard, steps behind the checkpoint from which a job goes
on are overwritten; Weights & Biases keeps what it has. A tracker that fails loses its own lines and nothing else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import structlog

from server.training.jobs.protocol import ClaimedJob
from server.training.worker.job_data import wandb_settings

log = structlog.get_logger(__name__)

# Longest time that Weights & Biases may take. What is not uploaded by then stays in the run's directory.
INIT_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 60.0
# A run reveals nothing about the worker it was on, which is the operator's and shared with other tenants' jobs.
ANONYMOUS_SETTINGS = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class Tracker(Protocol):
    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Trackers:
    """All trackers of one job, which goes on behind `step`."""

    def __init__(self, job: ClaimedJob, log_dir: Path | None, step: int) -> None:
        self._trackers: list[Tracker] = []
        if log_dir is not None:
            _try(lambda: self._trackers.append(TensorBoard(log_dir / job.id, step)))
        if (settings := wandb_settings(job)) is not None:
            _try(lambda: self._trackers.append(Wandb(job, settings, log_dir)))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            _try(lambda tracker=tracker: tracker.write(step, metrics))  # type: ignore[misc]

    def close(self) -> None:
        for tracker in self._trackers:
            _try(tracker.close)


class TensorBoard:
    """TensorBoard event files in `directory`."""

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
    """A run whose id is the job's, so that another worker continues it; its files are in `log_dir`/wandb.

    It is online when the environment has WANDB_API_KEY, else offline (for `wandb sync`), unless WANDB_MODE says
    otherwise; nobody is asked for a key. Everything happens in order in a thread of its own, so training waits neither
    for a login nor for an upload.
    """

    def __init__(self, job: ClaimedJob, settings: Mapping[str, Any], log_dir: Path | None) -> None:
        self._run: Any = None
        self._thread = ThreadPoolExecutor(1, "tracking")
        self._later(lambda: self._start(job, settings, log_dir))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._later(lambda: self._run and self._run.log(dict(metrics), step=step, commit=True))

    def close(self) -> None:
        self._later(lambda: self._run and self._run.finish())
        self._thread.shutdown(wait=False)

    def _later(self, work: Callable[[], object]) -> None:
        self._thread.submit(_try, work)

    def _start(self, job: ClaimedJob, settings: Mapping[str, Any], log_dir: Path | None) -> None:
        if log_dir is not None:
            log_dir.mkdir(parents=True, exist_ok=True)
        tags: Sequence[str] = settings.get("tags") or ()
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(
            project=settings["project"],
            entity=settings.get("entity"),
            name=settings.get("name") or job.id,
            tags=list(tags),
            id=job.id,
            resume="allow",
            reinit="create_new",  # beside the runs of the worker's other jobs
            config={"model": job.model, "seed": job.seed, **job.config.model_dump()},
            dir=log_dir,
            mode=os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline"),
            settings=wandb.Settings(
                silent=True,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_S),
                finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT") or FINISH_TIMEOUT_S),
                stop_fn=_ignore_stop,
                **ANONYMOUS_SETTINGS,
            ),
        )


def _ignore_stop() -> None:
    """Called for the stop button of Weights & Biases, which would otherwise interrupt the process and all its jobs."""
    log.warning("stop_ignored", reason="jobs are stopped with /v1/fine_tuning/jobs/{id}/cancel")


def _try(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:  # Training goes on when a disk or another service fails.
        log.exception("tracking_failed")
