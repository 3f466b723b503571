"""`python -m server.engine.grammar_worker`: compiles grammars line by line, to say whether the engine may.

The first line in is a tokenizer, as xgrammar writes it. Then a line in: {"kind": "json", "spec": "..."}; a line out: {}
or {"error": "..."}. Kinds are json, regex, grammar (EBNF), lark and structural_tag.

It runs the engine's own compiler, with limits: some schemas of a few bytes take endless memory and time, and only
trying tells which. The process ends at MEMORY_BYTES beyond what it needs itself, and after MAX_CPU_S seconds of
computing on one question (processor time, which other work on the machine does not lengthen).
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import xgrammar

MEMORY_BYTES = 2**30
# What the engine compiles in this time beside everyone's requests is not felt.
MAX_CPU_S = 5.0
# The server's event loop reads each grammar once more, and everybody waits for that.
MAX_PARSE_S = 0.5
# Each level is a call on the compiler's stack and a copy of what is inside it.
MAX_DEPTH = 100
# Lengths and numbers of items are written out in the grammar, state by state.
MAX_REPEATS = 10_000
REPEATS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_SOURCE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


def main() -> None:
    """Serve standard input until it ends."""
    tokenizer = xgrammar.TokenizerInfo.deserialize_json(json.loads(sys.stdin.readline())["tokenizer"])
    compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=1, cache_enabled=False)
    limit = _memory_now() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        # Its signal ends the process also in the middle of the compiler, which Python could not interrupt.
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        why = why_not(compiler, question["kind"], question["spec"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({} if why is None else {"error": why}), flush=True)


def why_not(compiler: xgrammar.GrammarCompiler, kind: str, spec: str) -> str | None:
    """Why the engine may not compile `spec`; None when it may."""
    try:
        began = time.process_time()
        # Read by Python once, for all that looks at it here; the compiler takes text.
        value = read_json(spec) if kind in ("json", "structural_tag") else None
        if kind == "json":
            check_keywords(value)
        grammar = parse(kind, spec, value)
        took = time.process_time() - began
        if took > MAX_PARSE_S:
            raise ValueError(f"reading it takes {took:.1f} s, expected at most {MAX_PARSE_S} s; make it smaller")
        if kind == "json":
            check_references(value)
        check_some_answer(compiler.compile_grammar(grammar))
    except MemoryError:
        return "it takes too much memory; make it smaller"
    except Exception as error:
        return _SOURCE.sub("", str(error)).strip()[:500] or type(error).__name__
    return None


def read_json(spec: str) -> Any:
    """The value of a JSON text. ValueError when it is none, or is nested more than MAX_DEPTH levels deep."""
    try:
        value = json.loads(spec)
        level = [value]
        for _ in range(MAX_DEPTH):
            level = [part for part in level if isinstance(part, dict | list)]
            level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
        too_deep = any(isinstance(part, dict | list) for part in level)
    except RecursionError:
        too_deep = True
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if too_deep:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep; make it flatter")
    return value


def check_keywords(schema: Any) -> None:
    """ValueError for what the engine could not bear, or not read, wherever it stands."""
    for part in objects_in(schema):
        for keyword in REPEATS:
            number = part.get(keyword)
            if isinstance(number, int | float) and number > MAX_REPEATS:
                raise ValueError(f"{keyword} = {number!s:.20} is more than {MAX_REPEATS}. Make it smaller")
        kind = part.get("type")
        if kind == "string" or (isinstance(kind, list) and "string" in kind):
            named = part.get("format", "")
            if not isinstance(named, str):
                raise ValueError(f"format = {json.dumps(named):.80} is no string. Name one format, or leave it out")


def check_references(schema: Any) -> None:
    """ValueError when a `$ref` leads back to itself by nothing but others: no value is ever said of it."""
    for inner in objects_in(schema):
        part: Any = inner
        seen: list[str] = []
        while isinstance(part, dict) and isinstance(part.get("$ref"), str):
            if part["$ref"] in seen:
                raise ValueError(f"the $ref {part['$ref'][:80]!r} leads back to itself, so that no answer fits it")
            seen.append(part["$ref"])
            part = _target(schema, part["$ref"])


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in parsed JSON, itself included, however deep it is."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending.extend(part)
        elif isinstance(part, dict):
            pending.extend(part.values())
            yield part


def _target(schema: Any, reference: str) -> Any:
    if not reference.startswith("#"):
        return None
    part = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        part = part.get(step) if isinstance(part, dict) else None
    return part


def check_some_answer(compiled: xgrammar.CompiledGrammar) -> None:
    """ValueError when no answer can even begin."""
    bitmask = xgrammar.allocate_token_bitmask(1, compiled.tokenizer_info.vocab_size)
    if xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(bitmask) and not bitmask.any():
        raise ValueError("no answer fits it, not even an empty one")


def parse(kind: str, spec: str, value: Any) -> xgrammar.Grammar:
    """The grammar that `spec` is; `value` is that of its JSON. Raises whatever xgrammar raises."""
    if kind == "json":
        return xgrammar.Grammar.from_json_schema(spec)
    if kind == "regex":
        return xgrammar.Grammar.from_regex(spec)
    if kind == "lark":
        return xgrammar.Grammar.from_lark(spec)
    if kind == "grammar":
        return xgrammar.Grammar.from_ebnf(spec)
    if "structures" not in value:
        return xgrammar.Grammar.from_structural_tag(spec)
    items = [
        xgrammar.StructuralTagItem(begin=part["begin"], schema=json.dumps(part["schema"]), end=part["end"])
        for part in value["structures"]
    ]
    return xgrammar.Grammar.from_structural_tag(items, value["triggers"])


def _memory_now() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
