"""uvicorn's server with an end that loses no request.

1. Notice, `notice_s` seconds: all is answered as before, but every answer closes its connection (`connection: close`),
   so proxies keep hardly an idle one; and load balancers that ask /ready have been told. There is none where nobody
   asked for the end: the engine has died, and who cannot connect goes elsewhere sooner than who gets an error.
2. No more connections are taken. Who has just connected has `linger_s` to send the request.
3. Idle connections are closed, and running answers end, those in the background too, for which no connection waits.

Design decision: uvicorn's own end, which is the third step, comes last. It closes connections on which a request may be
on its way; a reverse proxy cannot know whether that was begun, and answers 502 to what is not safe to repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from socket import socket

import structlog
import uvicorn

LINGER_S = 0.5
# How often it is looked whether the end was asked for a second time.
_LOOK_S = 0.05
_CLOSE = (b"connection", b"close")
log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """Ends after `stop`; answers that run then have uvicorn's `timeout_graceful_shutdown`.

    on_listening: called once connections are taken. on_draining: called when the notice begins. background: how many
    answers run without a connection. notice_s, linger_s: of the first two steps, which are left out without a notice.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_listening: Callable[[], None],
        on_draining: Callable[[], None],
        background: Callable[[], int],
        notice_s: float,
        linger_s: float = LINGER_S,
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_draining = on_draining
        self._background = background
        self._notice_s = notice_s
        self._linger_s = linger_s
        self.was_stopped = False

    def stop(self, *, notice: bool = True) -> None:
        """Begin to end, without the notice if so wanted. A second call cuts what still runs."""
        self.was_stopped = True
        if self.should_exit:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        elif not notice:
            self._notice_s = 0
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: whoever serves decides what signals do."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """The three steps."""
        if not self.was_stopped:
            self._notice_s = 0
        running = len(self.server_state.tasks)
        log.info("draining", running=running, background=self._background(), notice_s=self._notice_s)
        self._on_draining()
        self._close_after_answers()
        await self._serve_on(self._notice_s)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        if self._notice_s:
            await self._serve_on(self._linger_s)
        # uvicorn waits for it as for any request, and as long.
        ended = asyncio.create_task(self._background_ended(), name="background")
        self.server_state.tasks.add(ended)
        ended.add_done_callback(self.server_state.tasks.discard)
        await super().shutdown(sockets)

    def _close_after_answers(self) -> None:
        headers = [*self.server_state.default_headers, _CLOSE]
        self.server_state.default_headers = headers
        # A request keeps the headers of the moment it came; its answer may still be ahead.
        for connection in self.server_state.connections:
            if (cycle := getattr(connection, "cycle", None)) is not None:
                cycle.default_headers = headers

    async def _background_ended(self) -> None:
        """Returns when nothing runs in the background, and no request that could begin it."""
        this = {asyncio.current_task()}
        while self.server_state.connections or self.server_state.tasks - this or self._background():
            await asyncio.sleep(_LOOK_S)

    async def _serve_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(_LOOK_S)
