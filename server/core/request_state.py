"""What the gateway knows of one HTTP request: a single object in its ASGI scope, made by the outermost middleware.

Middlewares may copy the scope, but `scope["state"]` in it stays the same dict. Starlette (`request.state`) and the
engine keep things of their own there; the gateway's are all in one RequestState.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Scope

from server.core.genai_call import GenAiCall
from server.core.principal import Principal

_KEY = "tinylora"
# In the ASGI scope of a request that the server makes itself: whose it is. No web server puts it there for a client.
_OF_BACKGROUND = "tinylora.background"
RawHeaders = list[tuple[bytes, bytes]]


class HeldBody(Protocol):
    """What a request holds of the server's memory, or disk, for bodies (limits/body_memory.py)."""

    bytes: int

    def add(self, amount: int) -> None:
        """So many bytes more. Unavailable when there is no room for them."""

    def stream(self) -> None:
        """The reader keeps nothing of what it has read and will read, but for what it says (`keep`)."""

    def spool(self) -> None:
        """The reader writes what it reads to the disk."""

    def keep(self, amount: int) -> None:
        """So many bytes of what it streams wait to be read on. Unavailable when there is no room for them."""

    def hand_over(self) -> HeldBody:
        """All that it holds, for a request that goes on with the same body when this one has ended."""

    def close(self) -> None:
        """The request has ended; once more does nothing."""


class Trace(Protocol):
    """The spans of a request that is traced (observability/tracing.py)."""

    def enter_admission(self) -> None:
        """The adapter of an inference request is found: it waits for its turn."""

    def enter_engine(self, headers: RawHeaders, call: GenAiCall | None) -> RawHeaders:
        """The engine has it now, and is asked for `call`. Returns `headers` with its span as the parent of its own."""


@dataclass(slots=True)
class RequestUsage:
    """Tokens of the prompts and of the answers of one request, those of answers nobody received included.

    The engine is handed only `add`, and so knows nothing of tenants and quotas; what a request used is known however it
    ended.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, those that were in the engine's prefix cache
    first_token_at: float | None = field(default=None, compare=False)  # by time.perf_counter

    def add(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
        """What the engine calls, once per step of the request."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cached_tokens += cached_tokens
        if completion_tokens and self.first_token_at is None:
            self.first_token_at = time.perf_counter()

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class RequestState:
    """`id` is the request's in logs and in the answer, `path` the one that the client asked for, `began` a time of
    `time.perf_counter`. What is None is not known yet, or does not apply.

    `broke_off` says that an answer with a good status ended in an error, which a stream can.
    `routine` says that it is asked all the time and this time brought nothing: it is of no interest to the log.
    `background` says that nobody waits for the answer: the request is a batch's, and comes after all others.
    `adapter` is the name of the adapter that an inference request runs with, None for the base model; `usage` is None
    for any other request. `route` is the template of the route ("/v1/adapters/{name:path}"), once the router has run.
    """

    id: str
    method: str
    path: str
    began: float = field(default_factory=time.perf_counter)
    status: int | None = None
    broke_off: bool = False
    routine: bool = False
    principal: Principal | None = None
    background: bool = False
    held_body: HeldBody | None = None
    adapter: str | None = None
    usage: RequestUsage | None = None
    route: str | None = None
    trace: Trace | None = None

    @property
    def counted_status(self) -> int | None:
        """The HTTP status that metrics count: `status`, and 500 for an answer that broke off."""
        return 500 if self.broke_off else self.status

    @property
    def seconds(self) -> float:
        """Since the request began."""
        return time.perf_counter() - self.began


def put_state(scope: Scope, state: RequestState) -> None:
    """Make `state` that of the request with this ASGI scope."""
    scope.setdefault("state", {})[_KEY] = state


def state_of(scope: Scope) -> RequestState:
    """The state of the request with this ASGI scope."""
    state: RequestState = scope["state"][_KEY]
    return state


def for_background(scope: Scope, principal: Principal) -> Scope:
    """`scope` as that of a request of the background, which the server makes itself for `principal`."""
    return {**scope, _OF_BACKGROUND: principal}


def background_principal(scope: Scope) -> Principal | None:
    """Whose request this is if the server makes it itself; None for a client's."""
    principal: Principal | None = scope.get(_OF_BACKGROUND)
    return principal


def principal_of(scope: Scope) -> Principal:
    """Who a request is from that AuthMiddleware let pass with a key, or without one on a server that has none."""
    principal = state_of(scope).principal
    assert principal is not None
    return principal


def held_body(scope: Scope) -> HeldBody:
    """What a request with a principal holds."""
    held = state_of(scope).held_body
    assert held is not None
    return held
