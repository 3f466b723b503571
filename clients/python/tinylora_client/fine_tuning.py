"""`client.fine_tuning`: OpenAI's, whose jobs can besides be waited for, followed and looked into."""

from __future__ import annotations

from functools import cached_property

import openai.resources.fine_tuning as openai_fine_tuning
from openai.resources.fine_tuning.jobs import AsyncJobs as OpenAIAsyncJobs
from openai.resources.fine_tuning.jobs import Jobs as OpenAIJobs

from tinylora_client import job_operations as operations
from tinylora_client.runners import awaits, iterates, iterates_async, lists, lists_async, sends

# Outside of the classes, where their types are inferred from the operation and not from what OpenAI's take.
_create = sends(operations.create)
_create_async = awaits(operations.create)


class Jobs(OpenAIJobs):
    """Training jobs."""

    create = _create  # type: ignore[assignment]
    wait = sends(operations.wait)
    follow = iterates(operations.follow)
    samples = lists(operations.samples)


class AsyncJobs(OpenAIAsyncJobs):
    """As Jobs, for the async client."""

    create = _create_async  # type: ignore[assignment]
    wait = awaits(operations.wait)
    follow = iterates_async(operations.follow)
    samples = lists_async(operations.samples)


class FineTuning(openai_fine_tuning.FineTuning):
    """OpenAI's, with our jobs."""

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self._client)


class AsyncFineTuning(openai_fine_tuning.AsyncFineTuning):
    """OpenAI's, with our jobs."""

    @cached_property
    def jobs(self) -> AsyncJobs:
        return AsyncJobs(self._client)
