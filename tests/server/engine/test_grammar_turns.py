"""Turns of tenants at the processes that compile grammars, with the embedded model's tokenizer."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from vllm.config import ModelConfig, StructuredOutputsConfig, VllmConfig
from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

from server.core.errors import TooManyRequests
from server.engine.grammar_pool import BACKEND, EngineGrammars
from server.engine.grammar_turns import MAX_WAITING, GrammarTurns
from server.engine.grammar_worker import MAX_CPU_S
from server.launch.embedded_model import ensure_embedded_model


@asynccontextmanager
async def started() -> AsyncIterator[EngineGrammars]:
    model = ModelConfig(model=str(ensure_embedded_model()))
    structured = StructuredOutputsConfig(backend=BACKEND)
    grammars = EngineGrammars(VllmConfig(model_config=model, structured_outputs_config=structured))
    yield grammars
    await grammars.close()


@pytest.fixture
async def grammars() -> AsyncIterator[EngineGrammars]:
    async with started() as grammars:
        await asyncio.gather(*(grammars.why_not("regex", "a" + tenant, tenant) for tenant in ("acme", "globex")))
        yield grammars


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


async def test_a_request_that_is_in_the_engine_goes_first_and_equal_ones_wait_together() -> None:
    """Of a tool that has to be called vLLM makes a grammar of its own, which is known no sooner."""
    async with started() as grammars:  # the processes start meanwhile
        before = [asyncio.create_task(grammars.why_not("json", schema(400, str(n)), "acme")) for n in range(3)]
        await asyncio.sleep(0)
        in_engine = StructuredOutputsParams(json=schema(400, "2"))
        await asyncio.gather(*(grammars.check(in_engine, "acme") for _ in range(MAX_WAITING + 5)))
        assert [task.done() for task in before] == [True, False, True]
        with pytest.raises(VLLMValidationError, match="This grammar cannot be used"):
            await grammars.check(StructuredOutputsParams(regex="("), "acme")
        await asyncio.gather(*before)


async def test_who_leaves_ends_no_compilation(grammars: EngineGrammars) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await grammars.why_not("json", schema(400), "acme")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert await grammars.why_not("json", schema(400), "acme") is None
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime == ended, "no process was killed"


async def test_a_tenant_has_so_many_different_questions_waiting(grammars: EngineGrammars) -> None:
    slow = asyncio.create_task(grammars.why_not("json", schema(400), "acme"))
    await asyncio.sleep(0)
    others = [asyncio.create_task(grammars.why_not("regex", "a" * n, "acme")) for n in range(2, MAX_WAITING + 1)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests, match="64 other grammars"):
        await grammars.why_not("regex", "b", "acme")
    assert await grammars.why_not("regex", "b", "globex") is None
    urgent = [
        asyncio.create_task(grammars.check(StructuredOutputsParams(regex="c" * n), "acme"))
        for n in range(1, MAX_WAITING + 1)
    ]
    await asyncio.sleep(0)
    with pytest.raises(GracefulHTTPError, match="64 other grammars") as caught:
        await grammars.check(StructuredOutputsParams(regex="d"), "acme")
    assert caught.value.http_status == 429
    await asyncio.gather(slow, *others, *urgent)


async def test_a_question_that_failed_is_no_lost_error_and_is_asked_again() -> None:
    turns: GrammarTurns[int] = GrammarTurns()
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))

    async def fails() -> int:
        await asyncio.sleep(0.01)
        raise ValueError

    async def works() -> int:
        return 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await turns.ask("acme", "a", fails, urgent=False)
    await asyncio.sleep(0.05)
    gc.collect()
    assert lost == []
    assert await turns.ask("acme", "a", works, urgent=False) == 1


async def test_an_end_leaves_no_question(grammars: EngineGrammars) -> None:
    asked = [asyncio.create_task(grammars.why_not("json", schema(400, str(n)), "acme")) for n in range(2)]
    await asyncio.sleep(0)
    await grammars.close()
    async with asyncio.timeout(5):
        await asyncio.wait(asked)
    assert all(task.cancelled() for task in asked)
