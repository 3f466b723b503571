"""`client.batches`: OpenAI's, whose batches can besides be waited for and read."""

from __future__ import annotations

import openai.resources.batches as openai_batches

from tinylora_client import batch_operations as operations
from tinylora_client.runners import awaits, sends


class Batches(openai_batches.Batches):
    """Batches of requests."""

    wait = sends(operations.wait)
    results = sends(operations.results)


class AsyncBatches(openai_batches.AsyncBatches):
    """As Batches, for the async client."""

    wait = awaits(operations.wait)
    results = awaits(operations.results)
