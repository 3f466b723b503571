"""How long an engine has had requests and given nothing.

An engine can hang and not end: its process is there, every check of it passes, and no token comes. Only silence tells.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

OutputT = TypeVar("OutputT")


class EngineProgress:
    """Used by one event loop. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting = 0  # requests that wait for the engine's next output
        self._since = 0.0  # when `_before_s` was last true
        self._before_s = 0.0

    @property
    def silent_s(self) -> float:
        """Seconds since the last output of any request, of which only those count in which one was waited for.

        Requests that are given up do not end a silence: clients lose patience before anybody calls an engine dead. The
        time that a client takes to read its answer is no silence.
        """
        return self._before_s + (self._clock() - self._since if self._waiting else 0.0)

    async def watch(self, outputs: AsyncGenerator[OutputT, None]) -> AsyncGenerator[OutputT, None]:
        """The outputs of one request, as they come; none of them is None."""
        async with aclosing(outputs):
            while True:
                with self._wait():
                    output = await anext(outputs, None)
                if output is None:
                    return
                yield output

    @contextmanager
    def _wait(self) -> Iterator[None]:
        self._settle(self.silent_s)
        self._waiting += 1
        try:
            yield
        except BaseException:
            self._settle(self.silent_s)
            raise
        else:
            self._settle(0.0)
        finally:
            self._waiting -= 1

    def _settle(self, silent_s: float) -> None:
        self._before_s, self._since = silent_s, self._clock()
