"""The sync and the async client behind one face, so that each test holds both."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterator
from inspect import isawaitable
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import BaseModel

from tinylora_client import AsyncTinyLoRA, TinyLoRA

Connect = Callable[..., Any]


class Blocking:
    """A part of the async client, whose answers are waited for and whose series are lists."""

    def __init__(self, of: Any, portal: BlockingPortal) -> None:
        self._of, self._portal = of, portal

    def __getattr__(self, name: str) -> Any:
        return self._wrapped(getattr(self._of, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapped(self._portal.call(self._result, args, kwargs))

    def _wrapped(self, value: Any) -> Any:
        is_part = type(value).__module__.startswith(("openai.resources", "tinylora_client."))
        is_part = is_part and not isinstance(value, BaseModel)
        return Blocking(value, self._portal) if is_part or callable(value) else value

    async def _result(self, args: Any, kwargs: Any) -> Any:
        result = self._of(*args, **kwargs)
        if isinstance(result, AsyncIterable):
            return [item async for item in result]
        result = await result if isawaitable(result) else result
        return [item async for item in result] if isinstance(result, AsyncIterable) else result


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, base_url: str) -> Iterator[Connect]:
    """A client of the gateway, of each kind; keyword arguments are the client's."""
    if request.param == "sync":
        yield lambda **options: TinyLoRA(**{"base_url": base_url, **options})
        return
    with start_blocking_portal() as portal:

        async def make(options: Any) -> AsyncTinyLoRA:
            return AsyncTinyLoRA(**{"base_url": base_url, **options})

        made: list[AsyncTinyLoRA] = []

        def connect(**options: Any) -> Blocking:
            made.append(portal.call(make, options))
            return Blocking(made[-1], portal)

        yield connect
        for client in made:
            portal.call(client.close)


@pytest.fixture
def client(connect: Connect) -> Any:
    return connect(max_retries=0)
