"""Whether the engine can compile a grammar, found out in a process of its own (grammar_worker.py).

Design decision: one backend, xgrammar, and not vLLM's `auto`, unless the operator names another. With `auto` each
request chooses a backend for its check, but the engine keeps that of the first request: a grammar that one backend
accepted is then compiled by another, and fails there. And vLLM's checks run on the event loop, where some schemas never
end.

With another backend nothing is checked here: vLLM's own checks are what there is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any
from weakref import WeakValueDictionary

import xgrammar
from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.utils.mistral import is_mistral_tokenizer
from vllm.v1.structured_output.request import get_structured_output_key
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from server.core.child_pool import ChildError, ChildPool
from server.core.errors import TooManyRequests
from server.engine.grammar import Grammar
from server.engine.grammar_turns import GrammarTurns
from server.engine.schema_keywords import ignored_keywords

BACKEND = "xgrammar"
# However busy the machine is; the process itself ends after some seconds of computing (grammar_worker.MAX_CPU_S).
TIMEOUT_S = 30.0
# Of the questions of one tenant at most one is with a process, so that with two another finds a free one.
PROCESSES = 2
# What was too much for the process may only have met a busy machine, so it is asked again after some minutes.
REFUSED_S = 300.0
REMEMBERED = 4096


def settle_backend(vllm_config: Any) -> None:
    """Choose the backend where the operator left it open. vLLM has no other for the grammars of Mistral's tokenizer."""
    model_config = vllm_config.model_config
    if vllm_config.structured_outputs_config.backend != "auto" or model_config.skip_tokenizer_init:
        return
    if not is_mistral_tokenizer(cached_tokenizer_from_config(model_config)):
        vllm_config.structured_outputs_config.backend = BACKEND


@dataclass(frozen=True, slots=True)
class Known:
    """Why a grammar cannot be compiled; None when it can. So it is taken to be until a time of `time.monotonic`."""

    why: str | None
    until: float = inf


class EngineGrammars:
    """What is known of grammars, and the processes that find out more; they start with the first questions.

    Tenants take turns: each has one question with the processes, and the next ones wait behind everyone else's first.
    What two tenants ask is found out once, since it is looked up again when the turn has come.
    """

    def __init__(self, vllm_config: Any) -> None:
        model_config = vllm_config.model_config
        self._pool: ChildPool | None = None
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._turns: GrammarTurns[Known] = GrammarTurns()
        self._asking: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        if vllm_config.structured_outputs_config.backend == BACKEND and not model_config.skip_tokenizer_init:
            tokenizer = xgrammar.TokenizerInfo.from_huggingface(
                cached_tokenizer_from_config(model_config), vocab_size=model_config.get_vocab_size()
            )
            greeting = json.dumps({"tokenizer": tokenizer.serialize_json()})
            self._pool = ChildPool("server.engine.grammar_worker", processes=PROCESSES, greeting=greeting)

    async def why_not(self, kind: str, spec: str, tenant: Hashable, *, urgent: bool = False) -> str | None:
        """Why the engine cannot compile it; None when it can. ChildUnavailable when that cannot be found out.

        Urgent is what a request in the engine waits for. TooManyRequests when `tenant` has too many questions.
        """
        if self._pool is None:
            return None
        key = hashlib.sha256(f"{kind}\n{spec}".encode()).digest()
        known = self._recall(key)
        if known is None:
            known = await self._turns.ask(tenant, key, partial(self._once, self._pool, key, kind, spec), urgent=urgent)
        return known.why

    async def why_no_grammar(self, grammar: Grammar, tenant: Hashable) -> str | None:
        """As `why_not`, of a request's field."""
        return await self.why_not(grammar.kind, grammar.spec, tenant)

    async def check(self, structured_outputs: Any, tenant: Hashable) -> None:
        """Of what vLLM has made of a request, which is in the engine.

        VLLMValidationError for a grammar that cannot be compiled; GracefulHTTPError (429) for too many of `tenant`.
        """
        if self._pool is None or structured_outputs is None or structured_outputs.json_object:
            return
        kind, spec = get_structured_output_key(structured_outputs)
        try:
            why = await self.why_not(kind.name.lower(), spec, tenant, urgent=True)
        except TooManyRequests as error:
            raise GracefulHTTPError(error.message, error.status) from None
        if why is not None:
            raise VLLMValidationError(f"This grammar cannot be used: {why}", parameter="structured_outputs")

    async def close(self) -> None:
        await self._turns.close()
        if self._pool is not None:
            await self._pool.close()

    async def _once(self, pool: ChildPool, key: bytes, kind: str, spec: str) -> Known:
        async with self._asking.setdefault(key, asyncio.Lock()):
            return self._recall(key) or self._remember(key, await self._find_out(pool, kind, spec))

    def _recall(self, key: bytes) -> Known | None:
        known = self._known.get(key)
        if known is None or known.until < time.monotonic():
            return None
        self._known.move_to_end(key)
        return known

    def _remember(self, key: bytes, known: Known) -> Known:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known

    async def _find_out(self, pool: ChildPool, kind: str, spec: str) -> Known:
        if kind == "choice":
            kind, spec = "grammar", choice_as_grammar(json.loads(spec))
        if kind == "grammar" and grammar_is_likely_lark(spec):
            kind = "lark"
        try:
            answer = await pool.ask({"kind": kind, "spec": spec}, TIMEOUT_S)
        except ChildError:
            why = "compiling it takes too much time or memory. Make it smaller"
            return Known(why, time.monotonic() + REFUSED_S)
        if "error" in answer:
            return Known(str(answer["error"]))
        # Only now: what the compiler has been through is no longer of any size or depth.
        return Known(await asyncio.to_thread(ignored_keywords, spec) if kind == "json" else None)
