"""A batch of many short lines, and what a request pays that comes beside it.

    python -m benchmarks.batches --url http://localhost:8000 --lines 10000

Requests of one client, one after the other: alone, and then while the batch runs, in one run on one server; their
medians, and the ratio of beside to alone. Then the batch is left alone until it has ended, and its output is counted.
The server's key is taken from TINYLORA_API_KEY.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time

import openai

TOKENS = 32


def chat_s(client: openai.OpenAI, model: str) -> float:
    """Seconds that a chat takes."""
    began = time.monotonic()
    client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Write about the sea, {began}."}],
        max_tokens=TOKENS,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=20, help="in each of the two parts")
    args = parser.parse_args()
    key = os.environ.get("TINYLORA_API_KEY", "unused")
    client = openai.OpenAI(base_url=f"{args.url}/v1", api_key=key, max_retries=0, timeout=600)
    model = client.models.list().data[0].id
    body = {"model": model, "max_tokens": 1, "temperature": 0}
    lines = [
        json.dumps(
            {
                "custom_id": f"{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {**body, "messages": [{"role": "user", "content": f"Is {number} even?"}]},
            }
        )
        for number in range(args.lines)
    ]
    chat_s(client, model)
    before = [chat_s(client, model) for _ in range(args.requests)]
    file = client.files.create(file=("lines.jsonl", io.BytesIO("\n".join(lines).encode())), purpose="batch")
    began = time.monotonic()
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status == "validating":
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    beside = [chat_s(client, model) for _ in range(args.requests)]
    batch = client.batches.retrieve(batch.id)
    counts = batch.request_counts
    assert counts is not None and batch.status == "in_progress", f"the batch ended too early: {batch}"
    answered = counts.completed
    alone_p50, beside_p50 = statistics.median(before), statistics.median(beside)
    print(f"p50 of a request of {TOKENS} tokens: alone {alone_p50:.2f} s, beside the batch {beside_p50:.2f} s")
    print(f"ratio {beside_p50 / alone_p50:.2f}; {answered} lines were answered meanwhile")
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(1)
        batch = client.batches.retrieve(batch.id)
    took = time.monotonic() - began
    rows = client.files.content(batch.output_file_id or "").text.splitlines()
    ids = [json.loads(row)["custom_id"] for row in rows]
    assert ids == [str(number) for number in range(args.lines)], "a line is missing, or twice in the output"
    print(f"{batch.status}: {len(rows)} lines in {took:.0f} s, {len(rows) / took:.1f} a second")


if __name__ == "__main__":
    main()
