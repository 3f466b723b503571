"""Input files of batches, and what came of them, for tests."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import openai
from openai.types import Batch

from tests.server.support.fake_engine import BASE

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, *, url: str = CHAT, **body: Any) -> str:
    """A line of an input file: a chat with the base model, unless `url` and `body` say otherwise."""
    chat = {"model": BASE, "messages": [{"role": "user", "content": custom_id}], "max_tokens": 1}
    fields = {**chat, **body} if url == CHAT else body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": fields})


def make_batch(client: openai.OpenAI, lines: list[str], endpoint: Any = CHAT, **fields: Any) -> Batch:
    """A batch of these lines."""
    file = client.files.create(file=("in.jsonl", io.BytesIO("\n".join(lines).encode())), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields)


def ended(client: openai.OpenAI, batch: Batch, patience_s: float = 60) -> Batch:
    """The batch when it has ended."""
    until = time.monotonic() + patience_s
    while batch.status not in ENDED:
        assert time.monotonic() < until, f"still {batch.status}: {batch.request_counts}"
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def rows(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none of no file."""
    return [] if file_id is None else [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
