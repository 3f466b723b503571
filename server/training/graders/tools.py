"""The tools that graders need, made from the settings: mathematics processes, sandbox, judge and tenants' endpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import openai

from server.core.settings import Settings
from server.endpoints.endpoint_client import MAX_CONNECTIONS, EndpointClient
from server.endpoints.guarded_network import AllowedHosts
from server.limits.fair_semaphore import ShareSemaphore
from server.training.graders.build import GraderTools
from server.training.graders.math_pool import MathPool
from server.training.graders.sandbox import Sandbox

# As many of a tenant's completions as a worker grades at once (server.training.worker.loop).
CONNECTIONS_EACH = 16


def grader_tools(settings: Settings, this_server: openai.AsyncOpenAI) -> GraderTools:
    """The tools as the operator has set them. The caller closes them, and their judge."""
    sandbox = Sandbox() if settings.python_graders else None
    hosts = AllowedHosts(settings.endpoint_hosts)
    turns = ShareSemaphore(MAX_CONNECTIONS, CONNECTIONS_EACH)
    endpoints = EndpointClient(hosts, turn=turns.slot) if hosts.patterns else None
    tools = GraderTools(MathPool(), sandbox=sandbox, endpoints=endpoints)
    if settings.judge_url is None:
        return replace(tools, judge=this_server, judge_is_this_server=True)
    key = "none" if settings.judge_api_key is None else settings.judge_api_key.get_secret_value()
    return replace(tools, judge=openai.AsyncOpenAI(base_url=settings.judge_url, api_key=key))


def client_of_this_server(url: str, key: str = "unused", **options: Any) -> openai.AsyncOpenAI:
    """A client of this server, without the organization and project of the environment, which are OpenAI's."""
    nobody: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, default_headers=nobody, **options)
