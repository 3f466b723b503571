"""Which grammars a request has, that each is asked about, and that a refusal names the field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.grammar import grammars_of
from server.engine.grammar_turns import MAX_WAITING
from tests.server.support.fake_engine import FakeEngine

SCHEMA = {"type": "object"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
TAG = {"type": "structural_tag", "format": {"type": "any_text"}}


def function(strict: bool | None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": strict}}


NESTED = {"sampling_params": {"structured_outputs": {"grammar": "x"}}}


@pytest.mark.parametrize(
    ("payload", "field", "kind"),
    [
        ({"response_format": FORMAT}, "response_format.json_schema.schema", "json"),
        ({"response_format": TAG}, "response_format", "structural_tag"),
        ({"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "text.format.schema", "json"),
        ({"output_config": {"format": {"type": "json_schema", "schema": True}}}, "output_config.format.schema", "json"),
        ({"structured_outputs": {"json": "{}"}}, "structured_outputs.json", "json"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex", "regex"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "structured_outputs.choice", "choice"),
        (NESTED, "sampling_params.structured_outputs.grammar", "grammar"),
        ({"tools": [function(None), function(True)]}, "tools[1].function.parameters", "json"),
        ({"tools": [{"name": "f", "parameters": SCHEMA, "strict": True}]}, "tools[0].parameters", "json"),
        ({"tools": [{"name": "f", "input_schema": SCHEMA, "strict": True}]}, "tools[0].input_schema", "json"),
    ],
)
def test_a_grammar_has_the_name_of_its_field(payload: dict[str, Any], field: str, kind: str) -> None:
    (grammar,) = grammars_of(payload, all_tools=False)
    assert (grammar.field, grammar.kind) == (field, kind)


@pytest.mark.parametrize(
    "payload",
    [{}, {"response_format": {"type": "json_object"}}, {"tools": [function(True)], "tool_choice": "none"}],
)
def test_what_is_held_to_nothing_has_none(payload: dict[str, Any]) -> None:
    assert grammars_of(payload, all_tools=False) == ()


def test_every_tool_counts_where_all_are_held_to_their_schemas() -> None:
    assert len(grammars_of({"tools": [function(None), function(False)]}, all_tools=True)) == 2


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "json_schema", "schema", "format", "json", "regex", "choice", "function", "strict"]
            ),
            inner | st.sampled_from(["json_schema", "structural_tag", "function", True]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = ["response_format", "text", "structured_outputs", "sampling_params", "tools", "tool_choice", "output_config"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(FIELDS), ANY), st.booleans())
def test_whatever_is_sent_is_read(payload: dict[str, Any], all_tools: bool) -> None:
    for grammar in grammars_of(payload, all_tools=all_tools):
        assert isinstance(grammar.spec, str) and grammar.field


@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_cannot_be_used_is_refused_by_its_field(
    openai_client: openai.OpenAI, engine: FakeEngine, stream: bool
) -> None:
    engine.bad_grammars[json.dumps(SCHEMA)] = "items must be an object"
    with pytest.raises(openai.BadRequestError, match=r"response_format\.json_schema\.schema: items must be") as caught:
        openai_client.chat.completions.create(
            model="", messages=[], stream=stream, extra_body={"response_format": FORMAT}
        )
    assert (caught.value.param, caught.value.code) == ("response_format.json_schema.schema", "invalid_grammar")
    assert engine.received == []


async def test_a_grammar_that_can_be_used_is_asked_about_and_let_through(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": [], "response_format": FORMAT})
    assert response.status_code == 200
    assert [grammar.field for grammar in engine.grammars] == ["response_format.json_schema.schema"]


async def test_hundreds_of_tools_may_be_strict(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"messages": [], "tools": [function(True)] * 300}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert len(engine.grammars) == 300


async def test_so_many_different_grammars_of_a_tenant_wait_and_what_is_refused_is_not_charged(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    def ask(number: int) -> Awaitable[httpx.Response]:
        body = {"messages": [], "structured_outputs": {"regex": f"slow{number}"}}
        return asyncio.ensure_future(client.post("/v1/chat/completions", json=body))

    engine.hold_grammars = asyncio.Event()
    waiting = [ask(number) for number in [*range(MAX_WAITING), *[0] * 10]]
    async with asyncio.timeout(20):
        while len(engine.grammars) < len(waiting):
            await asyncio.sleep(0.01)
        refused = await ask(MAX_WAITING)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "64 other grammars" in refused.json()["error"]["message"]
    metrics = (await client.get("/metrics")).text
    assert 'tinylora_rejected_requests_total{reason="grammars"' in metrics
    engine.hold_grammars.set()
    assert {(await answer).status_code for answer in waiting} == {200}
    assert (await ask(MAX_WAITING)).status_code == 200


async def test_a_background_response_whose_grammar_cannot_be_used_is_not_created(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.bad_grammars[json.dumps(SCHEMA)] = "items must be an object"
    form = {"type": "json_schema", "name": "a", "schema": SCHEMA}
    body = {"input": "x", "background": True, "store": True, "text": {"format": form}}
    refused = await client.post("/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text.format.schema")
    assert (await client.get("/v1/responses")).json()["data"] == []
