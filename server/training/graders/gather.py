"""Several coroutines at once, of which none outlives the others.

Design decision: asyncio.gather raises the first failure and leaves the rest running, which then goes on sampling,
grading and asking judges for a step that nobody takes any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, in order. When one fails the others are cancelled and have ended before its exception is raised,
    as it is and not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
