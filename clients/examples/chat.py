"""Uploads an adapter of 26 bytes and asks the model with and without it: python -m clients.examples.chat

It is a whole program, to be copied. It expects a server on TINYLORA_URL, by default the one of `make serve`.
"""

from __future__ import annotations

from tinylora_client import TinyLoRA


def main() -> None:
    client = TinyLoRA()
    stored = client.adapters.upload("examples/demo", [0.2] * 13)
    base = client.models.list().data[0].id
    for adapter in (None, stored):
        answer = client.chat.completions.create(
            model=base,
            messages=[{"role": "user", "content": "Write one sentence about the sea."}],
            temperature=0,
            max_tokens=64,
            adapter=adapter,
        )
        print(f"{adapter.id if adapter else base}: {answer.choices[0].message.content}")


if __name__ == "__main__":
    main()
