"""`client.chat` with an argument `adapter` for `completions.create`; all else is the openai package's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, overload

import openai.resources.chat as openai_chat
from openai import AsyncStream, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from typing_extensions import TypedDict, Unpack

from tinylora_client.adapter_field import AdapterLike, adapter_field


class _Options(TypedDict, total=False):
    """What `create` takes besides the body that OpenAI's API knows."""

    adapter: AdapterLike | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, object] | None
    extra_body: Mapping[str, object] | None
    timeout: float | None


class _NonStreaming(_Options, CompletionCreateParamsNonStreaming):
    pass


class _Streaming(_Options, CompletionCreateParamsStreaming):
    pass


class Completions(openai_chat.Completions):
    """Chat completions of the base model, or with an adapter."""

    @overload  # type: ignore[override]
    def create(self, **params: Unpack[_NonStreaming]) -> ChatCompletion: ...
    @overload
    def create(self, **params: Unpack[_Streaming]) -> Stream[ChatCompletionChunk]: ...
    def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return super().create(extra_body=_with_adapter(extra_body, adapter), **params)


class AsyncCompletions(openai_chat.AsyncCompletions):
    """As Completions, for the async client."""

    @overload  # type: ignore[override]
    async def create(self, **params: Unpack[_NonStreaming]) -> ChatCompletion: ...
    @overload
    async def create(self, **params: Unpack[_Streaming]) -> AsyncStream[ChatCompletionChunk]: ...
    async def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return await super().create(extra_body=_with_adapter(extra_body, adapter), **params)


class Chat(openai_chat.Chat):
    """OpenAI's, with our completions."""

    @cached_property
    def completions(self) -> Completions:
        return Completions(self._client)


class AsyncChat(openai_chat.AsyncChat):
    """OpenAI's, with our completions."""

    @cached_property
    def completions(self) -> AsyncCompletions:
        return AsyncCompletions(self._client)


def _with_adapter(extra_body: Any, adapter: AdapterLike | None) -> Any:
    return extra_body if adapter is None else {**(extra_body or {}), "adapter": adapter_field(adapter)}
