"""How much of clients' bodies the server holds at once, of everyone together and of each tenant.

Every body is counted as it arrives and until its request has ended; a reader that does not keep what it reads gives the
bytes back. Bytes that have arrived count, not a Content-Length, so a client that sends slowly takes no room from
others. There is room in memory, and on disk, where forms with files lie while they arrive.

A tenant may hold as many bytes as are still free (dynamic thresholds, Choudhury and Hahne, 1998): one tenant alone half
of all, two a third each, so there is always room for another. Design decision: a request beyond that is refused with
"try again", and does not wait: while waiting it would hold what has already arrived.
"""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.errors import Unavailable
from server.core.request_state import state_of
from server.core.retry_headers import retry_headers

RETRY_S = 1.0


class BodyRoom:
    """At most `most_bytes` of bodies at once, which the server's `setting` says. For one event loop."""

    def __init__(self, most_bytes: int, setting: str) -> None:
        self._most_bytes = most_bytes
        self._setting = setting
        self._held: Counter[int] = Counter()

    @property
    def held_bytes(self) -> int:
        """Of all requests that run."""
        return self._held.total()

    def take(self, tenant_id: int, amount: int) -> None:
        """Hold so many bytes more for a tenant. Unavailable when it may not."""
        if self._held[tenant_id] + amount > self._most_bytes - self.held_bytes - amount:
            raise Unavailable(
                f"The server holds {self._held[tenant_id]} bytes of your requests, and has no room for {amount} more "
                f"(its setting {self._setting} is {self._most_bytes}, for all tenants together). Try again when some "
                "of your requests have been answered.",
                code="too_many_request_bytes",
                headers=retry_headers(RETRY_S),
            )
        self._held[tenant_id] += amount

    def give_back(self, tenant_id: int, amount: int) -> None:
        """They are held no longer."""
        self._held[tenant_id] -= amount
        if not self._held[tenant_id]:
            del self._held[tenant_id]


class HeldBody:
    """What one request holds: its body and, where a route says so, what was made of it, or a long answer."""

    def __init__(self, room: BodyRoom, disk: BodyRoom, tenant_id: int) -> None:
        self._room = room
        self._disk = disk
        self._tenant_id = tenant_id
        self._streamed = False
        self.bytes = 0

    def add(self, amount: int) -> None:
        """So many bytes more. Unavailable when there is no room for them."""
        if not self._streamed:
            self._room.take(self._tenant_id, amount)
            self.bytes += amount

    def stream(self) -> None:
        """The reader keeps nothing of what it has read and will read, but for what it says (`keep`)."""
        self.close()
        self._streamed = True

    def spool(self) -> None:
        """The reader writes what it reads to the disk."""
        self.close()
        self._room = self._disk

    def keep(self, amount: int) -> None:
        """So many bytes of what it streams wait to be read on. Unavailable when there is no room for them."""
        if amount > self.bytes:
            self._room.take(self._tenant_id, amount - self.bytes)
        else:
            self._room.give_back(self._tenant_id, self.bytes - amount)
        self.bytes = amount

    def hand_over(self) -> HeldBody:
        """All that it holds, for a request that goes on with the same body when this one has ended."""
        heir = HeldBody(self._room, self._disk, self._tenant_id)
        heir.bytes, self.bytes = self.bytes, 0
        return heir

    def close(self) -> None:
        """The request has ended; once more does nothing."""
        self._room.give_back(self._tenant_id, self.bytes)
        self.bytes = 0


class BodyMemory:
    """Pure ASGI middleware: counts the bodies of all requests that have a principal."""

    def __init__(self, app: ASGIApp, *, room: BodyRoom, disk: BodyRoom) -> None:
        self._app = app
        self._room = room
        self._disk = disk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = state_of(scope).principal if scope["type"] == "http" else None
        if principal is None:
            await self._app(scope, receive, send)
            return
        held = state_of(scope).held_body = HeldBody(self._room, self._disk, principal.tenant.id)

        async def receive_counted() -> Message:
            message = await receive()
            held.add(len(message.get("body", b"")))
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            held.close()
