"""`client.chat` and `client.responses` with an argument `adapter`: all its forms, streamed and whole."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

import tinylora_client
from tests.server.support.fake_engine import BASE
from tinylora_client import AsyncTinyLoRA, TinyLoRA, Vector, adapter_field

MESSAGES: Any = [{"role": "user", "content": "hello"}]


def ask(client: Any, adapter: Any, **options: Any) -> str:
    answer = client.chat.completions.create(model=BASE, messages=MESSAGES, adapter=adapter, **options)
    return str(answer.choices[0].message.content)


def test_every_form_of_an_adapter(client: Any) -> None:
    stored = client.adapters.upload("acme/math", [0.5] * 13)
    client.adapters.upload("acme/calm", [1.0] * 13)
    client.adapters.set_alias("acme/math", "prod", 1)
    assert ask(client, None) == "base"
    for form in ("acme/math", "acme/math@1", "acme/math@prod", stored):
        assert ask(client, form) == f"acme/math@1: {[0.5] * 13}"
    assert ask(client, Vector([0.25] * 13)).endswith(str([0.25] * 13))
    assert ask(client, Vector([0.25, 1.0], {"groups": 1, "u": 2}, "float32")).endswith("[0.25, 1.0]")
    assert ask(client, {"acme/math": 0.5, "acme/calm": 0.5}).endswith(str([0.75] * 13))
    assert ask(client, [(stored, 1.0), (Vector([2.0] * 13), 0.25)]).endswith(str([1.0] * 13))
    assert ask(client, {"acme/math": 0.5}).startswith("mix:")


def test_a_stream_with_an_adapter(client: Any) -> None:
    client.adapters.upload("acme/math", [0.5] * 13)
    chunks = client.chat.completions.create(model=BASE, messages=MESSAGES, adapter="acme/math", stream=True)
    text = "".join(chunk.choices[0].delta.content for chunk in chunks)
    assert text.startswith("acme/math@1: [0.5, ")


def test_responses_with_an_adapter(client: Any) -> None:
    client.adapters.upload("acme/math", [0.5] * 13)
    first = client.responses.create(model=BASE, input="one", adapter="acme/math")
    assert first.output_text == "acme/math@1 after 1 items"
    second = client.responses.create(model=BASE, input="two", previous_response_id=first.id)
    assert second.output_text == "base after 3 items"
    events = list(
        client.responses.create(
            model=BASE, input="three", previous_response_id=second.id, adapter={"acme/math": 0.5}, stream=True
        )
    )
    assert events[-1].response.output_text.startswith("mix:")
    assert client.responses.retrieve(events[-1].response.id).previous_response_id == second.id


def test_the_openai_packages_other_ways_go_on_working(client: Any) -> None:
    client.adapters.upload("acme/math", [0.5] * 13)
    raw = client.chat.completions.with_raw_response.create(model=BASE, messages=MESSAGES, adapter="acme/math")
    assert raw.headers["x-tinylora-adapter"] == "acme/math@1"
    by_body = {"adapter": adapter_field("acme/math")}
    answer = client.with_options(timeout=30).chat.completions.create(model=BASE, messages=MESSAGES, extra_body=by_body)
    assert answer.choices[0].message.content.startswith("acme/math@1")
    assert BASE in [model.id for model in client.models.list()]


def test_mistakes(client: Any) -> None:
    with pytest.raises(tinylora_client.AdapterNotFoundError, match="no adapter 'acme/none'"):
        ask(client, "acme/none")
    with pytest.raises(tinylora_client.ModelNotFoundError):
        client.chat.completions.create(model="acme/none", messages=MESSAGES)
    for wrong in (3, ["acme/math"], [("a", 1.0, 2)], [(3, 1.0)]):
        with pytest.raises(TypeError, match="expected a name"):
            ask(client, wrong)


def test_variables_of_openai_are_not_read_and_ours_are(monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai.invalid/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("TINYLORA_URL", f"{base_url}/")
    monkeypatch.setenv("TINYLORA_API_KEY", "sk-tl-ours")
    with TinyLoRA() as client:
        assert (str(client.base_url), client.api_key) == (f"{base_url}/v1/", "sk-tl-ours")
        assert not isinstance(client.default_headers["OpenAI-Organization"], str)
        assert BASE in [model.id for model in client.models.list().data]
    assert isinstance(client, openai.OpenAI)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_no_secret_of_openai_leaves_for_this_server(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "WEBHOOK_SECRET", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", f"of-openai-{name}")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "Authorization: Bearer of-openai\nHelicone-Auth: of-openai\nX-A: of-openai"
    )
    sent: list[dict[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(dict(request.headers))
        return httpx2.Response(200, json={"object": "list", "data": []})

    made: dict[str, Any] = {
        "base_url": "http://tinylora.invalid",
        "api_key": "sk-tl-ours",
        "default_headers": {"X-A": "1"},
    }
    if kind == "sync":
        client = TinyLoRA(**made, http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))
        for one in (client, client.with_options(timeout=3)):
            one.models.list()
            assert (one.admin_api_key, one.webhook_secret) == (None, None)
    else:
        asynchronous = AsyncTinyLoRA(**made, http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))
        for other in (asynchronous, asynchronous.with_options(timeout=3)):
            await other.models.list()
            assert (other.admin_api_key, other.webhook_secret) == (None, None)
    assert len(sent) == 2
    for headers in sent:
        assert headers["authorization"] == "Bearer sk-tl-ours" and headers["x-a"] == "1"
        assert not any("of-openai" in value for value in headers.values())


@pytest.mark.parametrize("kind", [TinyLoRA, AsyncTinyLoRA])
def test_a_key_that_no_header_can_have_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, kind: type[TinyLoRA] | type[AsyncTinyLoRA]
) -> None:
    assert kind(api_key="sk-tl-ours\n").api_key == "sk-tl-ours"
    monkeypatch.setenv("TINYLORA_API_KEY", "“sk-tl-ours”")
    with pytest.raises(ValueError, match=r"TINYLORA_API_KEY.*copy the key again") as caught:
        kind()
    assert "sk-tl-ours" not in str(caught.value)
