"""`client.responses` with an argument `adapter` for `create`; all else is the openai package's."""

from __future__ import annotations

from typing import Any, overload

import openai.resources.responses as openai_responses
from openai import AsyncStream, Stream
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from typing_extensions import Unpack

from tinylora_client.adapter_field import AdapterLike, AdapterOptions, with_adapter


class _NonStreaming(AdapterOptions, ResponseCreateParamsNonStreaming):
    pass


class _Streaming(AdapterOptions, ResponseCreateParamsStreaming):
    pass


class Responses(openai_responses.Responses):
    """Responses of the base model, or with an adapter. One that goes on from another has an adapter of its own."""

    @overload  # type: ignore[override]
    def create(self, **params: Unpack[_NonStreaming]) -> Response: ...
    @overload
    def create(self, **params: Unpack[_Streaming]) -> Stream[ResponseStreamEvent]: ...
    def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return super().create(extra_body=with_adapter(extra_body, adapter), **params)


class AsyncResponses(openai_responses.AsyncResponses):
    """As Responses, for the async client."""

    @overload  # type: ignore[override]
    async def create(self, **params: Unpack[_NonStreaming]) -> Response: ...
    @overload
    async def create(self, **params: Unpack[_Streaming]) -> AsyncStream[ResponseStreamEvent]: ...
    async def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return await super().create(extra_body=with_adapter(extra_body, adapter), **params)
