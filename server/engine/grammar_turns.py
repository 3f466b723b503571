"""Turns of tenants at the processes that compile grammars: one question of each tenant at a time, the others behind it.

Questions belong to the server and not to the requests that ask them. Equal ones of a tenant are one, however many wait
for its answer, and they may leave: it goes on without them, so no process is killed for a client that has no patience,
and who asks again finds it further on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from server.core.errors import TooManyRequests
from server.core.retry_headers import retry_headers

# Different ones of a tenant. Requests and lines of batches that meet this try again.
MAX_WAITING = 64
RETRY_S = 1

Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Question(Generic[Answer]):
    """`answer` comes of `find_out`. It is `urgent` when a request in the engine waits for it, which keeps a slot."""

    find_out: Callable[[], Awaitable[Answer]]
    answer: asyncio.Future[Answer]
    urgent: bool = False


@dataclass(slots=True, eq=False)
class Line(Generic[Answer]):
    """The questions of one tenant, by what makes them equal, and the task that asks them one after the other."""

    questions: dict[Hashable, Question[Answer]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class GrammarTurns(Generic[Answer]):
    """A line for each tenant that has questions."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, Line[Answer]] = {}

    async def ask(
        self, tenant: Hashable, key: Hashable, find_out: Callable[[], Awaitable[Answer]], *, urgent: bool
    ) -> Answer:
        """What `find_out` says, or has been asked by an equal `key` of `tenant`. Urgent questions go first.

        TooManyRequests when MAX_WAITING others go before it.
        """
        line = self._lines.get(tenant) or Line()
        question = line.questions.get(key)
        if question is None:
            if sum(other.urgent >= urgent for other in line.questions.values()) >= MAX_WAITING:
                raise _too_many()
            question = Question(find_out, asyncio.get_running_loop().create_future())
            line.questions[key] = question
        question.urgent |= urgent
        if line.task is None:
            self._lines[tenant] = line
            line.task = asyncio.create_task(self._serve(tenant, line), context=Context())  # of no request
        return await asyncio.shield(question.answer)

    async def close(self) -> None:
        """Forget all questions; who waits for an answer is cancelled."""
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in self._lines.values():
            for question in line.questions.values():
                question.answer.cancel()
        self._lines.clear()

    async def _serve(self, tenant: Hashable, line: Line[Answer]) -> None:
        questions = line.questions
        while questions:
            key = next((key for key, question in questions.items() if question.urgent), next(iter(questions)))
            await _find_out(questions[key])
            del questions[key]
        del self._lines[tenant]


async def _find_out(question: Question[Answer]) -> None:
    try:
        question.answer.set_result(await question.find_out())
    except Exception as error:
        question.answer.set_exception(error)
        question.answer.exception()  # it is no lost error when nobody waits any more


def _too_many() -> TooManyRequests:
    return TooManyRequests(
        f"{MAX_WAITING} other grammars and tools of yours wait to be compiled, as many as may wait. Try again when "
        "some of them are done, or send fewer different ones at once.",
        counted="requests",
        reason="grammars",
        headers=retry_headers(RETRY_S),
    )
