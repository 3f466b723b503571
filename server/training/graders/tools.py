"""What graders need, made from the settings: the mathematics processes, the sandbox, and the judge."""

from __future__ import annotations

from typing import Any

import openai

from server.core.settings import Settings
from server.training.graders.build import GraderTools
from server.training.graders.math_pool import MathPool
from server.training.graders.sandbox import Sandbox


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
