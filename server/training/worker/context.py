"""What all jobs of a worker share: the tools that they are trained with, and the process that they run in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.training.graders.build import GraderTools
from server.training.worker.gateway_client import GatewayClient
from server.training.worker.rollout import RolloutClient
from server.training.worker.trainer import Trainer


@dataclass(frozen=True, slots=True)
class WorkerTools:
    """What jobs are trained with.

    base_model, factors: name and digest by which the gateway knows the model. tokenizer: of transformers.
    max_tokens: the longest sequence of the base model; the engine's may be shorter. end_tokens: at which the engine
    stops, beside the tokenizer's own. log_dir: for TensorBoard.
    """

    base_model: str
    factors: str
    gateway: GatewayClient
    trainer: Trainer
    rollouts: RolloutClient
    graders: GraderTools
    tokenizer: Any
    max_tokens: int
    end_tokens: frozenset[int] = frozenset()
    log_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The process that a job runs in.

    worker: its name. stopping: set when it is to end. log: called with a line of text for every step.
    """

    worker: str
    tools: WorkerTools
    stopping: asyncio.Event
    log: Callable[[str], None]
