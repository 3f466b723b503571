"""asyncio.gather that leaves nothing running.

Design decision: asyncio.gather raises the first failure and lets the other coroutines run on, which would then sample,
grade and ask judges for a step that nobody takes any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; returns their results, in order.

    When one fails, the others are cancelled and have ended before its exception is raised, itself and not in a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
