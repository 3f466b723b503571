"""How long an engine has had requests and given nothing.

An engine can hang and not end: its process is there, every check of it passes, and no token comes. Only silence tells.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

OutputT = TypeVar("OutputT")


class EngineProgress:
    """Used by one event loop. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting = 0  # requests that wait for their next output
        self._since = 0.0  # when `_before_s` was last true
        self._before_s = 0.0

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last gave anything, of which only those count in which a request waited.

        Requests that are given up do not end a silence: clients lose patience before anybody calls an engine dead. The
        time that a client takes to read its answer is no silence.
        """
        return self._before_s + (self._clock() - self._since if self._waiting else 0.0)

    def gave(self) -> None:
        """The engine gave something, for whichever request: also what is not handed out before the answer's end."""
        self._before_s, self._since = 0.0, self._clock()

    async def watch(self, outputs: AsyncGenerator[OutputT, None]) -> AsyncGenerator[OutputT, None]:
        """The outputs of one request, as they come. Runs once per token: nothing here makes an object."""
        async with aclosing(outputs):
            self._wait()
            waits = True
            try:
                async for output in outputs:
                    waits = self._wait_no_more()
                    yield output
                    waits = self._wait()
            finally:
                if waits:
                    self._wait_no_more()

    def _wait(self) -> bool:
        if not self._waiting:
            self._since = self._clock()
        self._waiting += 1
        return True

    def _wait_no_more(self) -> bool:
        self._waiting -= 1
        if not self._waiting:
            self._before_s += self._clock() - self._since
        return False
