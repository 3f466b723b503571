"""A model that reads images: each request with its adapter, and each tenant with its own images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from server.launch.embedded_model import ensure_embedded_model
from tests.adapters.vision_model import save_vision_model
from tests.e2e.running import AS_ADMIN, ServerProcess, started
from tests.e2e.tenants import new_tenant
from tests.e2e.test_training_killed import has_succeeded, until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Logprobs = list[float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model = save_vision_model(tmp_path_factory.mktemp("models") / "vision", ensure_embedded_model())
    flags = ("--dtype", "float32", "--enforce-eager")
    with started(ServerProcess(tmp_path_factory.mktemp("server"), model, more_flags=flags)) as server:
        yield server


@contextmanager
def tenants(server: ServerProcess, *names: str) -> Iterator[list[openai.OpenAI]]:
    """The official client with a key of each, who are new."""
    with httpx.Client(base_url=server.url, headers=AS_ADMIN) as http, ExitStack() as closing:
        keys = [new_tenant(http, name) for name in names]
        yield [
            closing.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=120))
            for key in keys
        ]


def picture(color: str, side: int = 60) -> str:
    png = io.BytesIO()
    Image.new("RGB" if side < 1000 else "1", (side, side), color).save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def vector(value: float) -> dict[str, Any]:
    return {"adapter": {"vector": [value] * 13}}


def ask(client: openai.OpenAI, image: dict[str, Any], **fields: Any) -> Logprobs:
    """The log-probabilities of a greedy answer about `image`, a part of a message."""
    content: Any = [{"type": "text", "text": "What is it?"}, image]
    answer = client.chat.completions.create(
        model="vision", messages=[{"role": "user", "content": content}], max_tokens=4, temperature=0, logprobs=True,
        extra_body=fields,
    )  # fmt: skip
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    return [token.logprob for token in logprobs.content]


def part(url: str | None, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": None if url is None else {"url": url}, **fields}


@pytest.mark.timeout(300)
def test_images_with_adapters_between_two_tenants(server: ServerProcess) -> None:
    red, blue = picture("red"), picture("blue")
    with tenants(server, "one", "two") as (one, two):
        base = ask(one, part(red))
        assert base == ask(two, part(red)) == ask(one, part(red), **vector(0.0))
        of_blue = ask(one, part(blue))
        answers = [base, of_blue, ask(one, part(red), **vector(0.5)), ask(one, part(blue), **vector(0.5))]
        assert len({tuple(answer) for answer in answers}) == 4

        # vLLM looks an image up by the name that it is given. Another tenant's is neither seen nor taken by it.
        assert ask(one, part(red, uuid="logo")) == base
        assert ask(one, part(None, uuid="logo")) == base
        with pytest.raises(openai.BadRequestError, match="data is not provided"):
            ask(two, part(None, uuid="logo"))
        assert ask(two, part(blue, uuid="logo")) == of_blue
        assert ask(one, part(red, uuid="logo")) == base
        # Nor by a route that only counts.
        counted = {"model": "vision", "messages": [{"role": "user", "content": [part(blue, uuid="1:late")]}]}
        headers = {"Authorization": f"Bearer {two.api_key}"}
        assert httpx.post(f"{server.url}/tokenize", json=counted, headers=headers).status_code == 200
        assert ask(one, part(red, uuid="late")) == base


@pytest.mark.timeout(300)
def test_what_is_no_image_is_told(server: ServerProcess) -> None:
    inside = f"{server.url}/health"
    with tenants(server, "three") as [client]:
        for url, why in (
            (inside, "not public|this machine itself"),
            ("http://169.254.169.254/latest/meta-data", "not public"),
            ("file:///etc/passwd", "Cannot load local files"),
            ("data:image/png;base64,AAAA", "cannot identify"),
            (picture("white", 20_000), "exceed"),
        ):
            with pytest.raises(openai.BadRequestError, match=why):
                ask(client, part(url))
        assert ask(client, part(picture("red")))


@pytest.mark.timeout(300)
def test_such_a_model_is_trained_on_by_texts(server: ServerProcess) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": f"{n + 1}"}]}
        for n in range(8)
    ]
    with tenants(server, "four") as [client]:
        lines = "\n".join(map(json.dumps, rows)).encode()
        file = client.files.create(file=("rows.jsonl", lines), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="vision",
            training_file=file.id,
            method={"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4, "n_epochs": 1}}},
        ).id
        until(lambda: has_succeeded(client, job))
        trained = client.fine_tuning.jobs.retrieve(job).fine_tuned_model
        assert ask(client, part(picture("red")), adapter=trained) != ask(client, part(picture("red")))
