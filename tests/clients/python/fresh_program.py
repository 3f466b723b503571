"""Run by test_wheel.py where the client is installed and nothing of the server: python fresh_program.py URL ROWS"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import tinylora_client
from tinylora_client import AsyncTinyLoRA, TinyLoRA

MESSAGES: Any = [{"role": "user", "content": "hello"}]


def main(url: str, rows: str, grader: Any) -> None:
    for absent in ("torch", "vllm", "numpy", "server", "adapters", "clients"):
        assert importlib.util.find_spec(absent) is None, absent
    assert (Path(tinylora_client.__file__).parent / "py.typed").is_file()
    with TinyLoRA(base_url=url) as client:
        model = client.models.list().data[0].id
        stored = client.adapters.upload("acme/math", [0.5] * 13)
        answer = client.chat.completions.create(model=model, messages=MESSAGES, adapter=stored)
        assert answer.choices[0].message.content == f"acme/math@1: {[0.5] * 13}"
        stream = client.chat.completions.create(model=model, messages=MESSAGES, adapter="acme/math", stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("acme/math@1: [0.5,")
        job = client.fine_tuning.jobs.create(
            training_file=Path(rows), method={"type": "reinforcement", "reinforcement": {"grader": grader}}
        )
        job = client.fine_tuning.jobs.wait(job.id, poll_s=0.1, timeout=60)
    print(asyncio.run(ask_again(url, model, job.fine_tuned_model)))


async def ask_again(url: str, model: str, adapter: str | None) -> str:
    async with AsyncTinyLoRA(base_url=url) as client:
        names = [one.name async for one in client.adapters.list()]
        answer = await client.chat.completions.create(model=model, messages=MESSAGES, adapter=adapter)
        assert adapter in names, names
        return str(answer.choices[0].message.content)


if __name__ == "__main__":
    grader = {
        "type": "string_check",
        "name": "exact",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
        "operation": "eq",
    }
    main(sys.argv[1], sys.argv[2], grader)
