"""The process that compiles grammars, with xgrammar and the embedded model's tokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import xgrammar
from transformers import AutoTokenizer

from server.core.child_pool import ChildError, ChildPool, ChildUnavailable
from server.engine.grammar_worker import why_not
from server.launch.embedded_model import ensure_embedded_model

TIMEOUT_S = 60
LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
ENDLESS = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(5000)}}
CITY = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture
async def pool() -> AsyncIterator[ChildPool]:
    tokenizer = AutoTokenizer.from_pretrained(ensure_embedded_model(), local_files_only=True)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
    pool = ChildPool("server.engine.grammar_worker", greeting=json.dumps({"tokenizer": info.serialize_json()}))
    yield pool
    await pool.close()


async def test_grammars_of_every_kind_are_compiled(pool: ChildPool) -> None:
    legacy = {"structures": [{"begin": "<a>", "schema": CITY, "end": "</a>"}], "triggers": ["<a"]}
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": CITY}}
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    }
    for kind, spec in [
        ("json", json.dumps(CITY)),
        ("json", json.dumps(tree)),
        ("json", '{"not": ' * 99 + "{}" + "}" * 99),
        ("regex", "[a-z]+@[a-z]+"),
        ("grammar", 'root ::= "a" root | "b"'),
        ("lark", 'start: "a"'),
        ("structural_tag", json.dumps(tag)),
        ("structural_tag", json.dumps(legacy)),
    ]:
        assert await pool.ask({"kind": kind, "spec": spec}, TIMEOUT_S) == {}, (kind, spec)


async def test_what_does_not_compile_is_told_in_the_compilers_words_alone(pool: ChildPool) -> None:
    for kind, spec, why in [
        ("json", '{"type": "array", "items": [{}]}', "items must be a boolean or an object"),
        ("json", '{"type": "integer", "minimum": 1.5}', "Integer constraint must be a whole number"),
        ("json", '{"type": "string", "pattern": "^\\\\p{L}+$"}', "Regex parsing error"),
        ("json", '{"$ref": "#/nowhere"}', "nowhere"),
        ("json", '{"$ref": "#"}', "leads back to itself"),
        ("json", json.dumps({"properties": {"a": LOOP}, "$defs": LOOP["$defs"]}), "leads back to itself"),
        ("grammar", "root ::= root", "no answer fits it"),
        ("json", "not JSON", "JSON"),
        ("json", '{"not": ' * 5000 + "{}" + "}" * 5000, "more than 100 levels deep"),
        ("json", '{"not": ' * 100 + "{}" + "}" * 100, "more than 100 levels deep"),
        ("regex", "(", "Regex parsing error"),
        ("grammar", "nonsense", "root"),
        ("structural_tag", "{}", "format"),
        ("structural_tag", "not JSON", "it is not JSON"),
    ]:
        answer = await pool.ask({"kind": kind, "spec": spec}, TIMEOUT_S)
        assert why in str(answer["error"]) and str(answer["error"]), (kind, spec)
        assert "/project/" not in str(answer["error"]).split("Failed to parse")[0]


def test_json_is_read_once() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ensure_embedded_model(), local_files_only=True)
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer), max_threads=1)
    legacy = {"structures": [{"begin": "<a>", "schema": CITY, "end": "</a>"}], "triggers": ["<a"]}
    for kind, spec in [("json", json.dumps(CITY)), ("structural_tag", json.dumps(legacy))]:
        read = []

        def note(frame: Any, event: str, _: object, spec: str = spec, read: list[str] = read) -> None:
            if event == "call" and frame.f_code is json.loads.__code__ and frame.f_locals["s"] == spec:
                read.append(spec)

        sys.setprofile(note)
        try:
            assert why_not(compiler, kind, spec) is None
        finally:
            sys.setprofile(None)
        assert read == [spec], kind


async def test_what_takes_too_long_costs_a_process_and_the_next_is_answered(pool: ChildPool) -> None:
    await pool.warm()
    with pytest.raises(ChildError, match="no answer within 2 s"):
        await pool.ask({"kind": "json", "spec": json.dumps(ENDLESS)}, 2)
    assert await pool.ask({"kind": "regex", "spec": "a"}, TIMEOUT_S) == {}


async def test_a_process_that_does_not_start_is_said_so() -> None:
    with pytest.raises(ChildUnavailable, match=r"server\.engine\.grammar_worker does not start"):
        await ChildPool("server.engine.grammar_worker", greeting="{}").ask({"kind": "regex", "spec": "a"}, TIMEOUT_S)


async def test_a_question_that_takes_long_to_compute_ends_the_process_by_itself(pool: ChildPool) -> None:
    """Whoever asks would wait for much longer."""
    with pytest.raises(ChildError, match="ended"):
        await pool.ask({"kind": "json", "spec": json.dumps(ENDLESS)}, 240)
    assert await pool.ask({"kind": "json", "spec": json.dumps(CITY)}, TIMEOUT_S) == {}
