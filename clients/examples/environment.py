"""An environment of your own, behind a URL: python -m clients.examples.environment --secret whsec_...

It prints the definition by which jobs name it, and a row for it. The server that trains has to allow its host; this
machine is allowed by TINYLORA_ENDPOINT_HOSTS='*,localhost' alone. The model has to find a number, and is told after
each guess whether it is higher: put your own game, or your own tools, into `answer`.

Nothing is remembered between requests: each has the whole conversation, and may come twice.

To be copied together with grader.py, which verifies who asks.
"""

from __future__ import annotations

import base64
import json
import random
import re
import secrets
from http.server import ThreadingHTTPServer
from typing import Annotated, Any

import typer

from clients.examples.grader import handler

MOST = 20
PROMPT = f"I think of a number from 1 to {MOST}. Guess it. Answer with a number only."


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What follows the model's turn: messages of the roles user and tool, or the end and its reward."""
    number = random.Random(asked["seed"]).randint(1, MOST)
    digits = re.search(r"\d{1,9}", asked["messages"][-1]["content"] or "")
    guess = int(digits[0]) if digits else 0
    if guess == number or asked["turns_left"] == 0:
        return {"done": True, "reward": 1 / asked["turn"] if guess == number else 0.0}
    hint = "It is higher." if guess < number else "It is lower."
    return {"messages": [{"role": "user", "content": hint}]}


def main(
    secret: Annotated[str | None, typer.Option(help="Of the definition; without it, one is made")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9200,
    host: Annotated[str, typer.Option(help="0.0.0.0: also for other machines")] = "127.0.0.1",
) -> None:
    """Answer what is asked, until it is ended."""
    if secret is None:
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    server = ThreadingHTTPServer((host, port), handler(secret, answer))
    print(json.dumps({"url": f"http://localhost:{port}/", "secret": secret, "max_turns": 5}), flush=True)
    print(json.dumps({"messages": [{"role": "user", "content": PROMPT}]}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    typer.run(main)
