"""The lines of a batch that are being asked: as many at once as there is room for, each until it has its answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from starlette.types import ASGIApp

from server.batches.answers import Result, result_of
from server.batches.asking import Answered, Backoff, ask
from server.batches.lines import RequestLine
from server.core.background import cancelled
from server.core.ids import new_id
from server.core.principal import Principal

MAX_WINDOW, MAX_WINDOW_BYTES = 64, 32 * 2**20
SERVER_ERRORS_TRIED = 3
SERVER_ERROR_RETRY_S = 1.0


class Window:
    """Asks lines at `endpoint` of `app`, at most `size` at once, and of MAX_WINDOW_BYTES together.

    principal: for whom, as it is by then; None while its tenant is disabled. answered: called with each result.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoint: str,
        size: int,
        principal: Callable[[], Principal | None],
        answered: Callable[[Result], None],
    ) -> None:
        self._app, self._endpoint, self._size = app, endpoint, size
        self._principal, self._answered = principal, answered
        self._backoff = Backoff(time.monotonic)
        self._asked: set[asyncio.Task[None]] = set()
        self._bytes = 0

    async def ask(self, line: RequestLine) -> None:
        """Ask `line` once there is room for it beside the others."""
        await self._room(self._size - 1, MAX_WINDOW_BYTES - line.size)
        self._bytes += line.size
        task = asyncio.create_task(self._ask(line))
        self._asked.add(task)

        def forget(done: asyncio.Task[None]) -> None:
            self._bytes -= line.size

        task.add_done_callback(forget)

    async def emptied(self) -> None:
        """Wait until all lines have their answers."""
        await self._room(0, 0)

    async def cancel(self) -> None:
        """Ask no more for those that have none."""
        await cancelled(self._asked)

    async def _room(self, lines: int, size: int) -> None:
        """Wait until at most so many lines, of so many bytes, are being asked."""
        while self._asked and (len(self._asked) > lines or self._bytes > size):
            done, self._asked = await asyncio.wait(self._asked, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _ask(self, line: RequestLine) -> None:
        self._answered(result_of(line.number, line.custom_id, await self._answer_to(line)))

    async def _answer_to(self, line: RequestLine) -> Answered:
        """The answer, for which quotas are waited for; what fails in the server is tried again."""
        body = json.dumps(line.body).encode()
        failures = 0
        while True:
            principal = self._principal()
            if principal is None:
                await asyncio.Event().wait()  # to be cancelled
                raise AssertionError
            answered = await ask(self._app, self._endpoint, body, principal, new_id("req_"))
            if answered.retry_s is not None:
                await self._backoff.wait(answered.retry_s)
                continue
            failures += answered.status >= 500
            if answered.status < 500 or failures >= SERVER_ERRORS_TRIED:
                return answered
            await asyncio.sleep(SERVER_ERROR_RETRY_S)
