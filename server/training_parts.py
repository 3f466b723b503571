"""What the routes of training work with, as one dependency, beside the Gateway that all routes have.

It holds no state of its own: training_app.py makes it, and `TrainingDep` hands it to a route.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

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


def grader_tools(settings: Settings, this_server: openai.AsyncOpenAI) -> GraderTools:
    """What graders need, as the operator has set it. Whoever asks closes it, and its judge."""
    sandbox = Sandbox() if settings.python_graders else None
    if settings.judge_url is None:
        return GraderTools(math=MathPool(), judge=this_server, judge_is_this_server=True, sandbox=sandbox)
    key = "none" if settings.judge_api_key is None else settings.judge_api_key.get_secret_value()
    return GraderTools(MathPool(), openai.AsyncOpenAI(base_url=settings.judge_url, api_key=key), sandbox=sandbox)


def client_of_this_server(url: str, key: str = "unused", **options: Any) -> openai.AsyncOpenAI:
    """Asks as whoever `key` says: the organisation in the environment is one at OpenAI, and would be a tenant here."""
    nobody: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, default_headers=nobody, **options)


def _training(request: Request) -> Training:
    training: Training = request.app.state.training
    return training


TrainingDep = Annotated[Training, Depends(_training)]
