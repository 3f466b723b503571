"""What the routes of training work with, as one dependency, beside the Gateway that all routes have.

It holds no state of its own: training_app.py makes it, and `TrainingDep` hands it to a route.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import openai
from fastapi import Depends, Request

from server.file_storage import FileStorage
from server.job_metrics import JobMetrics
from server.settings import Settings
from server.training.graders.build import GraderTools
from server.training.graders.math_pool import MathPool
from server.training.graders.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Training:
    """The parts of one app."""

    files: FileStorage
    metrics: JobMetrics
    graders: GraderTools


def grader_tools(settings: Settings) -> GraderTools:
    """What graders need, as the operator has set it. Whoever asks closes it, and its judge."""
    judge = None
    if settings.judge_url is not None:
        key = "none" if settings.judge_api_key is None else settings.judge_api_key.get_secret_value()
        judge = openai.AsyncOpenAI(base_url=settings.judge_url, api_key=key)
    return GraderTools(math=MathPool(), judge=judge, sandbox=Sandbox())


def _training(request: Request) -> Training:
    training: Training = request.app.state.training
    return training


TrainingDep = Annotated[Training, Depends(_training)]
