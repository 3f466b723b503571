"""Uploads an adapter of 26 bytes and asks the model with and without it: python -m clients.examples.chat

It is a whole program, to be copied. It expects a server on TINYLORA_URL, by default the one of `make serve`.
"""

from __future__ import annotations

import os

from openai import OpenAI

from clients.adapters import Adapters


def main() -> None:
    url = os.environ.get("TINYLORA_URL", "http://localhost:8000")
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("TINYLORA_API_KEY", "unused"))
    stored = Adapters(client).upload("examples/demo", [0.2] * 13)
    base = client.models.list().data[0].id
    for adapter in (None, stored["id"]):
        answer = client.chat.completions.create(
            model=base,
            messages=[{"role": "user", "content": "Write one sentence about the sea."}],
            temperature=0,
            max_tokens=64,
            extra_body={} if adapter is None else {"adapter": adapter},
        )
        print(f"{adapter or base}: {answer.choices[0].message.content}")


if __name__ == "__main__":
    main()
