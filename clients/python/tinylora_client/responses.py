"""`client.responses` with an argument `adapter` for `create`, and `list`; all else is the openai package's."""

from __future__ import annotations

from typing import Any, Literal, overload

import openai.resources.responses as openai_responses
from openai import AsyncStream, Stream
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from typing_extensions import Unpack

from tinylora_client.adapter_field import AdapterLike, AdapterOptions, with_adapter
from tinylora_client.objects import ResponseStatus, ResponseSummary
from tinylora_client.operation import Listing
from tinylora_client.runners import lists, lists_async


class _NonStreaming(AdapterOptions, ResponseCreateParamsNonStreaming):
    pass


class _Streaming(AdapterOptions, ResponseCreateParamsStreaming):
    pass


def list_responses(
    *,
    status: ResponseStatus | None = None,
    model: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    limit: int = 20,
) -> Listing[ResponseSummary]:
    """The tenant's stored responses, newest first, in pages of `limit`, without what was said in them.

    model: as in the summaries, or an adapter's name, which stands for all of its versions; "inline" or "mix".
    """
    query: dict[str, Any] = {"status": status, "model": model, "order": order, "limit": limit}
    given = {name: value for name, value in query.items() if value is not None}
    return Listing("/responses", ResponseSummary, given)


class Responses(openai_responses.Responses):
    """Responses of the base model, or with an adapter. One that goes on from another has an adapter of its own."""

    @overload  # type: ignore[override]
    def create(self, **params: Unpack[_NonStreaming]) -> Response: ...
    @overload
    def create(self, **params: Unpack[_Streaming]) -> Stream[ResponseStreamEvent]: ...
    def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return super().create(extra_body=with_adapter(extra_body, adapter), **params)

    list = lists(list_responses)


class AsyncResponses(openai_responses.AsyncResponses):
    """As Responses, for the async client."""

    @overload  # type: ignore[override]
    async def create(self, **params: Unpack[_NonStreaming]) -> Response: ...
    @overload
    async def create(self, **params: Unpack[_Streaming]) -> AsyncStream[ResponseStreamEvent]: ...
    async def create(self, *, adapter: AdapterLike | None = None, extra_body: Any = None, **params: Any) -> Any:
        """As openai's; `adapter` as in tinylora_client.adapter_field, None for the model that `model` names."""
        return await super().create(extra_body=with_adapter(extra_body, adapter), **params)

    list = lists_async(list_responses)
