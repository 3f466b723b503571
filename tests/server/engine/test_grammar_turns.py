"""Turns of tenants at the processes that compile grammars, with the embedded model's tokenizer."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator

import pytest
from vllm.config import ModelConfig, StructuredOutputsConfig, VllmConfig
from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

from server.engine.grammar_pool import BACKEND, MAX_WAIT_S, EngineGrammars
from server.engine.grammar_worker import MAX_CPU_S
from server.launch.embedded_model import ensure_embedded_model


@pytest.fixture
async def grammars() -> AsyncIterator[EngineGrammars]:
    model = ModelConfig(model=str(ensure_embedded_model()))
    structured = StructuredOutputsConfig(backend=BACKEND)
    grammars = EngineGrammars(VllmConfig(model_config=model, structured_outputs_config=structured))
    await asyncio.gather(*(grammars.why_not("regex", "a", tenant) for tenant in ("acme", "globex")))  # which start
    yield grammars
    await grammars.close()


def schema(properties: int, title: str = "") -> str:
    """That takes seconds to compile, with hundreds of properties, and too long with thousands."""
    return json.dumps(
        {"type": "object", "title": title, "properties": {f"p{n}": {"type": "string"} for n in range(properties)}}
    )


async def test_a_tenant_waits_for_no_other_however_much_that_one_asks(grammars: EngineGrammars) -> None:
    many = [asyncio.create_task(grammars.why_not("json", schema(400, str(n)), "acme")) for n in range(6)]
    await asyncio.sleep(0)
    for number in range(3):
        assert await grammars.why_not("regex", "b" * (number + 1), "globex") is None
    assert sum(task.done() for task in many) <= 3
    assert await asyncio.gather(*many) == [None] * 6


async def test_what_takes_too_long_is_asked_once(grammars: EngineGrammars) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # of those that have ended, as each does by this
    whys = await asyncio.gather(*(grammars.why_not("json", schema(5000), "acme") for _ in range(3)))
    whys.append(await grammars.why_not("json", schema(5000), "globex"))
    assert all(why is not None and "too much time or memory" in why for why in whys)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 4 * MAX_CPU_S


async def test_a_request_that_is_in_the_engine_does_not_wait_long_for_its_tenants_turn(
    grammars: EngineGrammars,
) -> None:
    """Of a tool that has to be called vLLM makes a grammar of its own, which is known no sooner."""
    slow = asyncio.create_task(grammars.why_not("json", schema(5000), "acme"))
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(GracefulHTTPError, match="Try again") as caught:
        await grammars.check(StructuredOutputsParams(json=schema(1)), "acme")
    assert caught.value.http_status == 503
    assert time.monotonic() - began + 0.01 >= MAX_WAIT_S
    await grammars.check(StructuredOutputsParams(json=schema(1)), "globex")
    slow.cancel()
    await asyncio.wait({slow})
    with pytest.raises(VLLMValidationError, match="This grammar cannot be used"):
        await grammars.check(StructuredOutputsParams(regex="("), "acme")
