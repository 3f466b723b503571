"""Tenants take turns at the graders' one thread."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import Grader, Sample
from server.training.graders.math_pool import MathPool
from tests.server.training.graders.test_build import DEFINITIONS

# Written as JSON in the thread, however short it is.
ROW = {"answer": ["a"]}


@pytest.mark.parametrize("kind", ["string_check", "text_similarity"])
async def test_long_texts_of_one_tenant_keep_another_waiting_for_one_of_them(kind: str) -> None:
    tools = GraderTools(MathPool())

    def grader(tenant: str, kind: str, **fields: Any) -> Grader:
        return tools.on_behalf_of(tenant, {}).build(parse_spec({**DEFINITIONS[kind], **fields}))

    long = grader("flood", "text_similarity", evaluation_metric="gleu")
    sample, row = Sample.of_text("ab " * 5_000), {"answer": "ba " * 5_000}
    flood = [asyncio.create_task(long.grade(sample, row)) for _ in range(16)]
    await asyncio.sleep(0)
    other = grader("other", kind)
    waiting = asyncio.create_task(other.grade(Sample.of_text("x"), ROW))
    await waiting
    done = sum(task.done() for task in flood)
    await asyncio.gather(*flood)
    assert done <= 2
