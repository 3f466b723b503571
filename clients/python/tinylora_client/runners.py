"""Operations as methods: of resources of OpenAI's client, and of its async client.

`sends` and `awaits` make a method of an operation that has one result, `iterates` and `iterates_async` of one that
emits a series, `lists` and `lists_async` of a listing in pages.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Protocol, TypeVar

import anyio
from openai import AsyncOpenAI, OpenAI, OpenAIError
from openai.pagination import AsyncCursorPage, SyncCursorPage
from typing_extensions import ParamSpec

from tinylora_client.operation import Call, Emit, Listing, Operation, Pause, Series

if TYPE_CHECKING:
    from openai._base_client import AsyncPaginator

T = TypeVar("T")
P = ParamSpec("P")


class Resource(Protocol):
    """A part of the sync client, of ours as of OpenAI's."""

    _client: OpenAI


class AsyncResource(Protocol):
    """A part of the async client."""

    _client: AsyncOpenAI


def sends(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Resource, P], T]:
    @functools.wraps(operation)
    def method(self: Resource, /, *args: P.args, **kwargs: P.kwargs) -> T:
        steps = operation(*args, **kwargs).__iter__()
        try:
            step = next(steps)
            while True:
                step = _go_on(steps, _outcome(self._client, step))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    return method


def awaits(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[AsyncResource, P], Coroutine[Any, Any, T]]:
    @functools.wraps(operation)
    async def method(self: AsyncResource, /, *args: P.args, **kwargs: P.kwargs) -> T:
        steps = operation(*args, **kwargs).__iter__()
        try:
            step = next(steps)
            while True:
                step = _go_on(steps, await _outcome_async(self._client, step))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    return method


def iterates(series: Callable[P, Series[T]]) -> Callable[Concatenate[Resource, P], Iterator[T]]:
    @functools.wraps(series)
    def method(self: Resource, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        steps = series(*args, **kwargs)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Emit):
                    yield step.value
                    step = next(steps)
                else:
                    step = _go_on(steps, _outcome(self._client, step))
        except StopIteration:
            return
        finally:
            steps.close()

    return method


def iterates_async(series: Callable[P, Series[T]]) -> Callable[Concatenate[AsyncResource, P], AsyncIterator[T]]:
    @functools.wraps(series)
    async def method(self: AsyncResource, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        steps = series(*args, **kwargs)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Emit):
                    yield step.value
                    step = next(steps)
                else:
                    step = _go_on(steps, await _outcome_async(self._client, step))
        except StopIteration:
            return
        finally:
            steps.close()

    return method


def lists(listing: Callable[P, Listing[T]]) -> Callable[Concatenate[Resource, P], SyncCursorPage[T]]:
    @functools.wraps(listing)
    def method(self: Resource, /, *args: P.args, **kwargs: P.kwargs) -> SyncCursorPage[T]:
        of = listing(*args, **kwargs)
        page: type[SyncCursorPage[T]] = SyncCursorPage[of.item]  # type: ignore[name-defined]
        return self._client.get_api_list(of.path, model=of.item, page=page, options={"params": dict(of.query)})

    return method


def lists_async(
    listing: Callable[P, Listing[T]],
) -> Callable[Concatenate[AsyncResource, P], AsyncPaginator[T, AsyncCursorPage[T]]]:
    @functools.wraps(listing)
    def method(self: AsyncResource, /, *args: P.args, **kwargs: P.kwargs) -> AsyncPaginator[T, AsyncCursorPage[T]]:
        of = listing(*args, **kwargs)
        page: type[AsyncCursorPage[T]] = AsyncCursorPage[of.item]  # type: ignore[name-defined]
        return self._client.get_api_list(of.path, model=of.item, page=page, options={"params": dict(of.query)})

    return method


def _outcome(client: OpenAI, step: Call[Any] | Pause) -> object:
    """The answer, or the error in its place."""
    if isinstance(step, Pause):
        time.sleep(step.seconds)
        return None
    try:
        answer: object = getattr(client, step.method)(**step.arguments())
    except OpenAIError as error:
        return error
    return answer


async def _outcome_async(client: AsyncOpenAI, step: Call[Any] | Pause) -> object:
    if isinstance(step, Pause):
        await anyio.sleep(step.seconds)
        return None
    try:
        answer: object = await getattr(client, step.method)(**step.arguments())
    except OpenAIError as error:
        return error
    return answer


def _go_on(steps: Generator[Any, Any, Any], outcome: object) -> Any:
    """The next step; StopIteration has the result."""
    return steps.throw(outcome) if isinstance(outcome, OpenAIError) else steps.send(outcome)
