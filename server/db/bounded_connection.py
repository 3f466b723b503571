"""A connection to PostgreSQL that ends when its server says nothing for too long.

TCP tells of a host that has vanished (url.py), and `statement_timeout` ends a statement that takes too long, on the
server. Neither ends the wait for a server that is frozen and whose host, or a pooler in between, still acknowledges
what it is sent: a disk that hangs, a process that was stopped. psycopg has no limit for that.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[Any]):
    """Raises OperationalError, and is closed, when nothing came from the server for `silence_s`; None: it waits."""

    silence_s: float | None = None

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """psycopg's, which asks `gen` to go on ten times a second, whether something came or not."""
        if self.silence_s is not None:
            gen = self._heard(gen, self.silence_s)
        return super().wait(gen, *args, **kwargs)

    @contextmanager
    def waits_for_ever(self) -> Iterator[None]:
        """Within the block the server may be silent for as long as it likes."""
        silence_s, self.silence_s = self.silence_s, None
        try:
            yield
        finally:
            self.silence_s = silence_s

    def _heard(self, gen: Generator[Any, Any, T], silence_s: float) -> Generator[Any, Any, T]:
        heard = monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = monotonic()
                elif monotonic() - heard > silence_s:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has said nothing for {silence_s:g} s: it hangs")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
