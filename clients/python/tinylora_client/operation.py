"""What the sync and the async client share: operations, which say what to send and send nothing (runners.py does).

An operation is a Call, or a generator that yields Calls (and is sent their answers), Pauses, and, where it gives a
series of results, Emits:

    def get(reference: str) -> Call[Adapter]:
        return Call("get", path_of(reference), Adapter)

    def twice(reference: str) -> Steps[tuple[Adapter, Adapter]]:
        first = yield from get(reference)
        yield Pause(1.0)
        return first, (yield from get(reference))

`sends(get)` makes it a method of a resource of OpenAI's client, `awaits(get)` one of a resource of the async client.

Design decision: generators, not an async client that a sync one runs in an event loop. A loop of its own would not work
in programs that have one, notebooks above all.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. answer: the type that its answer is read as; `object` is JSON as it is, `bytes` the body.

    idempotency_key, timeout_s: None has the client choose.
    """

    method: Literal["get", "post", "put", "patch", "delete"]
    path: str
    answer: type[T]
    body: Mapping[str, Any] | None = None
    content: bytes | None = None
    files: Mapping[str, tuple[str, bytes]] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    timeout_s: float | None = None

    def __iter__(self) -> Generator[Call[Any], Any, T]:
        answer: T = yield self
        return answer

    def arguments(self) -> dict[str, Any]:
        """What the client's `get`, `post`, ... is called with."""
        options: dict[str, Any] = {"headers": dict(self.extra_headers), "params": dict(self.query)}
        if self.idempotency_key is not None:
            options["idempotency_key"] = self.idempotency_key
        if self.timeout_s is not None:
            options["timeout"] = self.timeout_s
        given = {"body": self.body, "content": self.content, "files": self.files}
        payload = {name: value for name, value in given.items() if value is not None}
        return {"path": self.path, "cast_to": self.answer, "options": options, **payload}


@dataclass(frozen=True)
class Pause:
    """Nothing is sent for so long."""

    seconds: float


@dataclass(frozen=True)
class Emit(Generic[T]):
    """A result of a series."""

    value: T


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A listing in pages, each asked for with `after` the last id of the one before."""

    path: str
    item: type[T]
    query: Mapping[str, Any] = field(default_factory=dict)


class Operation(Protocol[T_co]):
    """A Call, or a generator of steps. Errors of a Call are raised where it was yielded."""

    def __iter__(self) -> Generator[Any, Any, T_co]: ...


# Of a generator that is an operation with a result, and of one that emits a series.
Steps: TypeAlias = Generator[Any, Any, T]
Series: TypeAlias = Generator[Call[Any] | Pause | Emit[T], Any, None]
