"""vLLM's other endpoints and features with an adapter: completions, responses, tools, schemas, tokens, metrics."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from server.launch.embedded_model import embedded_model_dir
from tests.e2e.talking import QUESTION, TOKENS, Talk, user

pytestmark = pytest.mark.engine

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"},
        "country": {"enum": ["France", "Spain"]},
        "capital": {"type": "boolean"},
    },
    "required": ["name", "country", "capital"],
    "additionalProperties": False,
}
# Enough for the longest document that the schema allows, whatever the adapter makes the model prefer.
CITY_TOKENS = 120


@pytest.fixture(autouse=True)
def uploaded(talk: Talk) -> None:
    if talk.http.get("/adapters/acme%2Fgeneral").status_code == 404:
        talk.upload("acme/general", 0.2)


def assert_city(text: str | None) -> None:
    city = json.loads(text or "")
    assert city.keys() == {"name", "country", "capital"}
    assert city["country"] in CITY["properties"]["country"]["enum"]  # type: ignore[index]
    assert isinstance(city["capital"], bool)


def test_completions_run_with_the_adapter(talk: Talk) -> None:
    def complete(**extra: object) -> tuple[str, list[float]]:
        answer = talk.client.completions.create(
            model=talk.base, prompt="Paris is", max_tokens=TOKENS, temperature=0, logprobs=0, extra_body=extra
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        return answer.model, [float(value or 0) for value in logprobs.token_logprobs or ()]

    base_model, base = complete()
    adapter_model, adapted = complete(adapter="acme/general")
    assert (base_model, adapter_model) == (talk.base, "acme/general@1")
    assert abs(base[0] - adapted[0]) > 0.02


def test_responses_run_with_the_adapter(talk: Talk) -> None:
    chat = talk.greedy("acme/general")
    answer = talk.client.responses.create(
        model=talk.base, input=QUESTION, max_output_tokens=TOKENS, temperature=0,
        extra_body={"adapter": "acme/general", "ignore_eos": True},
    )  # fmt: skip
    assert answer.model == "acme/general@1"
    assert answer.output_text == chat.text


def test_json_schema_holds_with_an_adapter(talk: Talk) -> None:
    answer = talk.client.chat.completions.create(
        model="acme/general", messages=user("Describe a city as JSON."), temperature=0, max_tokens=CITY_TOKENS,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "stop"
    assert_city(answer.choices[0].message.content)


def test_tool_is_called_with_an_adapter(talk: Talk) -> None:
    answer = talk.client.chat.completions.create(
        model=talk.base, messages=user("Store the city of Paris."), temperature=0, max_tokens=CITY_TOKENS,
        tools=[{"type": "function", "function": {"name": "store_city", "parameters": CITY, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "store_city"}},
        extra_body={"adapter": "acme/general"},
    )  # fmt: skip
    assert answer.model == "acme/general@1"
    calls = answer.choices[0].message.tool_calls or []
    assert len(calls) == 1
    call = calls[0]
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "store_city"
    assert_city(call.function.arguments)


def test_models_are_the_base_and_the_adapters(talk: Talk, client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert talk.base in models and "acme/general" in models
    assert client.models.retrieve("acme/general").id == "acme/general"
    assert client.models.retrieve(talk.base).id == talk.base


def test_tokenize_counts_tokens_under_an_adapters_name(talk: Talk) -> None:
    expected = AutoTokenizer.from_pretrained(embedded_model_dir())(QUESTION)["input_ids"]
    for fields in ({"model": talk.base}, {"model": "acme/general"}, {"model": talk.base, "adapter": "acme/general"}):
        response = talk.http.post("/tokenize", json={**fields, "prompt": QUESTION, "add_special_tokens": False})
        assert response.status_code == 200, response.text
        assert response.json()["tokens"] == expected


def test_metrics_count_tokens_by_adapter_beside_vllms_own(talk: Talk) -> None:
    talk.upload("acme/counted", 0.05)
    before = samples(talk)
    answer = talk.client.chat.completions.create(**talk.greedy_request("acme/counted"))
    list(talk.client.chat.completions.create(**talk.greedy_request("acme/counted"), stream=True))
    talk.greedy()
    after = samples(talk)
    assert answer.usage is not None

    def counted(metric: str, adapter: str) -> float:
        key = (f"tinylora_{metric}_tokens_total", adapter)
        return after[key] - before.get(key, 0)

    assert counted("completion", "acme/counted") == 2 * TOKENS
    assert counted("prompt", "acme/counted") == 2 * answer.usage.prompt_tokens
    assert counted("completion", "base") == TOKENS
    by_engine = ("vllm:generation_tokens_total", "")
    assert after[by_engine] - before[by_engine] == 3 * TOKENS


def samples(talk: Talk) -> dict[tuple[str, str], float]:
    """Every sample of /metrics by its name and its label `adapter`, "" where it has none."""
    families = text_string_to_metric_families(talk.http.get("/metrics").text)
    return {(s.name, s.labels.get("adapter", "")): s.value for family in families for s in family.samples}


def test_a_prompt_that_is_only_echoed_has_log_probabilities_and_no_answer(talk: Talk) -> None:
    talk.upload("acme/echoed", 0.2)
    request: Any = {"prompt": QUESTION, "echo": True, "logprobs": 1}
    base, adapted = (
        talk.client.completions.create(model=model, max_tokens=0, **request) for model in (talk.base, "acme/echoed")
    )
    for completion in (base, adapted):
        assert completion.choices[0].text == QUESTION
        assert completion.usage is not None and completion.usage.completion_tokens == 0
        assert completion.usage.total_tokens == completion.usage.prompt_tokens > 3
    assert base.choices[0].logprobs is not None and adapted.choices[0].logprobs is not None
    assert base.choices[0].logprobs.token_logprobs[1:] != adapted.choices[0].logprobs.token_logprobs[1:]  # type: ignore[index]
    one = talk.client.completions.create(model=talk.base, max_tokens=1, **request)
    assert one.usage is not None and one.usage.completion_tokens == 1
