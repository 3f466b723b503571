"""Schemas with keywords that xgrammar would ignore or that nothing can bear, with the embedded model's tokenizer."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.config import ModelConfig, StructuredOutputsConfig, VllmConfig
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from adapters.factors.factors import Factors
from server.engine.grammar import Grammar
from server.engine.grammar_pool import BACKEND, EngineGrammars
from server.engine.schema_keywords import ignored_keywords
from server.launch.embedded_model import ensure_embedded_model
from tests.server.support.fake_engine import FakeEngine

UNIQUE = {"type": "array", "uniqueItems": True}


class CompilingEngine(FakeEngine):
    """One that has vLLM's compiler asked about grammars, as the real one does."""

    def __init__(self, factors: Factors) -> None:
        super().__init__(factors)
        model = ModelConfig(model=str(ensure_embedded_model()))
        structured = StructuredOutputsConfig(backend=BACKEND)
        self.compiler = EngineGrammars(VllmConfig(model_config=model, structured_outputs_config=structured))

    async def why_no_grammar(self, grammar: Grammar, tenant: int) -> str | None:
        return await self.compiler.why_no_grammar(grammar, tenant)


@pytest.fixture
async def engine(factors: Factors) -> AsyncIterator[CompilingEngine]:
    engine = CompilingEngine(factors)
    yield engine
    await engine.compiler.close()


async def test_odd_schemas_are_refused_by_their_field(client: httpx.AsyncClient, engine: CompilingEngine) -> None:
    for schema, why in [
        ('{"type": "string", "format": ["date"]}', 'format = ["date"] is no string'),
        ('{"properties": {"a": {"default": {"type": ["string"], "format": {"b": 1}}}}}', 'format = {"b": 1} is no str'),
        ('{"minLength": 1%s}' % ("0" * 310), "minLength = 10000000000000000000 is more than 10000"),
        ('{"maxItems": 1e999}', "maxItems = inf is more than 10000"),
        ('{"minLength": 1%s}' % ("0" * 5000), "it is not JSON"),
        ('{"not": ' * 3000 + "{}" + "}" * 3000, "nested more than 100 levels deep"),
        (
            json.dumps({"anyOf": [{}, {"properties": {"a": UNIQUE}}]}),
            "['type', 'uniqueItems'] in anyOf[1].properties.a",
        ),
        (json.dumps(UNIQUE), "['type', 'uniqueItems'] cannot all be enforced"),
    ]:
        body = {"messages": [], "structured_outputs": {"json": schema}}
        refused = await client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400, schema[:80]
        error = refused.json()["error"]
        assert (error["param"], error["code"]) == ("structured_outputs.json", "invalid_grammar")
        assert why in error["message"]
    fine = {"type": "object", "properties": {"format": {"type": "string", "format": "date", "description": "a day"}}}
    body = {"messages": [], "structured_outputs": {"json": json.dumps(fine)}}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def test_the_event_loop_walks_through_no_large_schema(engine: CompilingEngine) -> None:
    many = {f"p{number}": {"type": "string"} for number in range(8000)} | {"last": UNIQUE}
    deep: dict[str, Any] = {"default": many}
    for _ in range(190):
        deep = {"not": deep}
    assert await engine.compiler.why_not("regex", "a", 0) is None  # a process has started
    for spec in (json.dumps(deep), json.dumps({"default": many})):
        before = time.thread_time()
        assert await engine.compiler.why_not("json", spec, 0) is not None
        assert time.thread_time() - before < 0.1


def test_a_long_key_is_not_written_out_for_all_that_is_in_it() -> None:
    key = "k" * 100_000
    schema = {key: {key: {f"p{number}": {} for number in range(20_000)} | {"last": UNIQUE}}}
    why = ignored_keywords(json.dumps(schema))
    assert why is not None and len(why) < 500 and "uniqueItems" in why


KEYWORDS = ["multipleOf", "uniqueItems", "contains", "format", "pattern", "minLength", "propertyNames", "properties"]
KEYS = st.sampled_from([*KEYWORDS, "patternProperties", "unevaluatedProperties", "allOf", "items", "a"])
TYPES = st.sampled_from(["integer", "array", "string", "object", ["object", "string"], ["null"]])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["date", "nonsense"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(
            lambda kind, rest: {"type": kind} | rest, TYPES, st.dictionaries(KEYS.filter("format".__ne__), inner)
        )
        | st.builds(lambda named: {"type": "string", "format": named}, st.sampled_from(["date", "nonsense"]))
    ),
    max_leaves=12,
)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(VALUES)
def test_it_finds_what_vllm_finds(value: Any) -> None:
    schema = {"items": value}
    assert (ignored_keywords(json.dumps(schema)) is not None) == has_xgrammar_unsupported_json_features(schema)
