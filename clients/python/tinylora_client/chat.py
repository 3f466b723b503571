"""`client.chat` with an argument `adapter` for `completions.create`; all else is the openai package's."""

from __future__ import annotations

from functools import cached_property
from typing import Any, overload

import openai.resources.chat as openai_chat
from openai import AsyncStream, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from typing_extensions import Unpack

from tinylora_client.adapter_field import AdapterLike, AdapterOptions, with_adapter


class _NonStreaming(AdapterOptions, CompletionCreateParamsNonStreaming):
    pass


class _Streaming(AdapterOptions, CompletionCreateParamsStreaming):
    pass


class Completions(openai_chat.Completions):
    """Chat completions of the base model, or with an adapter."""

    @overload  # type: ignore[override]
    def create(self, **params: Unpack[_NonStreaming]) -> ChatCompletion: ...
    @overload
    def create(self, **params: Unpack[_Streaming]) -> Stream[ChatCompletionChunk]: ...
    def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return super().create(extra_body=with_adapter(extra_body, adapter), **params)


class AsyncCompletions(openai_chat.AsyncCompletions):
    """As Completions, for the async client."""

    @overload  # type: ignore[override]
    async def create(self, **params: Unpack[_NonStreaming]) -> ChatCompletion: ...
    @overload
    async def create(self, **params: Unpack[_Streaming]) -> AsyncStream[ChatCompletionChunk]: ...
    async def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return await super().create(extra_body=with_adapter(extra_body, adapter), **params)


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
