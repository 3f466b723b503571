"""A grader of your own, behind a URL: python -m clients.examples.grader --secret whsec_...

It prints the definition by which jobs name it. The server that trains has to allow its host; this machine is allowed by
TINYLORA_ENDPOINT_HOSTS='*,localhost' alone. The reward is for short answers that have the right word in them: put your
own into `score`.

It is a whole program, to be copied; it needs the openai client alone, which verifies who asks.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import openai
import typer


def score(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """The reward of a completion. sample: as in a chat completion, with `output_text`. item: the fields of the row."""
    text: str = sample["output_text"]
    right = str(item.get("answer", "")).casefold() in text.casefold()
    return float(right) / (1 + len(text) / 200)


def graded(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: of one completion, or of several."""
    if "batch" in asked:
        return {"scores": [score(one["sample"], one["item"]) for one in asked["batch"]]}
    return {"score": score(asked["sample"], asked["item"])}


def main(
    secret: Annotated[str | None, typer.Option(help="Of the grader's definition; without it, one is made")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9100,
    host: Annotated[str, typer.Option(help="0.0.0.0: also for other machines")] = "127.0.0.1",
) -> None:
    """Grade what is asked, until it is ended."""
    if secret is None:
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    server = ThreadingHTTPServer((host, port), handler(secret, graded))
    definition = {"type": "endpoint", "url": f"http://localhost:{port}/", "secret": secret, "batch_size": 16}
    print(json.dumps(definition), flush=True)
    server.serve_forever()


def handler(secret: str, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    """What gives the `answer` to requests that `secret` has signed."""
    webhooks = openai.OpenAI(api_key="unused").webhooks

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                webhooks.verify_signature(body, dict(self.headers), secret=secret)
            except (openai.InvalidWebhookSignatureError, ValueError) as error:
                return self._answer(401, {"error": f"the signature is not right: {error}"})
            self._answer(200, answer(json.loads(body)))

        def _answer(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


if __name__ == "__main__":
    typer.run(main)
