"""The clients: OpenAI's, with adapters, typed errors, and one Idempotency-Key for all attempts of a call."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from openai import APIStatusError, AsyncOpenAI, OpenAI

from tinylora_client.adapters import Adapters, AsyncAdapters
from tinylora_client.answer_check import check_fields, reading
from tinylora_client.batches import AsyncBatches, Batches
from tinylora_client.chat import AsyncChat, Chat
from tinylora_client.errors import typed_error
from tinylora_client.fine_tuning import AsyncFineTuning, FineTuning
from tinylora_client.objects import Limits
from tinylora_client.responses import AsyncResponses, Responses

DEFAULT_URL = "http://localhost:8000"
URL_VARIABLE, KEY_VARIABLE = "TINYLORA_URL", "TINYLORA_API_KEY"
IDEMPOTENCY_HEADER = "Idempotency-Key"


class TinyLoRA(OpenAI):
    """A client of one server: openai.OpenAI with `adapters` and `limits`; `batches`, `chat`, `responses` and
    `fine_tuning` do more.

    base_url: the server, with or without /v1; default TINYLORA_URL, else http://localhost:8000. api_key: default
    TINYLORA_API_KEY; a server without keys takes any. options: those of openai.OpenAI (timeout, max_retries, ...).

    An answer that cannot be one of such a server is an openai.APIResponseValidationError.
    Writes that are repeated because an answer was lost are done once: all attempts of a call have the same
    Idempotency-Key. Responses in the background are among them; other requests for answers are answered as often as
    they are sent.
    OpenAI's own environment variables are not read, so that its keys go nowhere else.
    """

    def __init__(self, *, base_url: object = None, api_key: Any = None, **options: Any) -> None:
        super().__init__(base_url=_base_url(base_url), api_key=_api_key(api_key), **options)
        _own_headers(self, options)

    @cached_property
    def adapters(self) -> Adapters:
        """Adapters, their versions and aliases."""
        return Adapters(self)

    @cached_property
    def chat(self) -> Chat:
        """Chat completions, with an argument `adapter`."""
        return Chat(self)

    @cached_property
    def batches(self) -> Batches:
        """Batches of requests, which can be waited for and read."""
        return Batches(self)

    @cached_property
    def fine_tuning(self) -> FineTuning:
        """Training jobs, which can be waited for."""
        return FineTuning(self)

    @cached_property
    def responses(self) -> Responses:
        """Responses, with an argument `adapter`."""
        return Responses(self)

    def limits(self) -> Limits:
        """The quotas of the tenant and of the key, and what is left of them."""
        return self.get("/limits", cast_to=Limits)

    def _make_status_error(self, err_msg: str, *, body: object, response: Any) -> APIStatusError:
        return typed_error(super()._make_status_error(err_msg, body=body, response=response))

    def _process_response(self, **arguments: Any) -> Any:
        with reading(**arguments):
            return super()._process_response(**arguments)

    def _process_response_data(self, **arguments: Any) -> Any:
        check_fields(**arguments)
        return super()._process_response_data(**arguments)


class AsyncTinyLoRA(AsyncOpenAI):
    """As TinyLoRA, for asyncio and trio: openai.AsyncOpenAI with the same additions."""

    def __init__(self, *, base_url: object = None, api_key: Any = None, **options: Any) -> None:
        super().__init__(base_url=_base_url(base_url), api_key=_api_key(api_key), **options)
        _own_headers(self, options)

    @cached_property
    def adapters(self) -> AsyncAdapters:
        """Adapters, their versions and aliases."""
        return AsyncAdapters(self)

    @cached_property
    def chat(self) -> AsyncChat:
        """Chat completions, with an argument `adapter`."""
        return AsyncChat(self)

    @cached_property
    def batches(self) -> AsyncBatches:
        """Batches of requests, which can be waited for and read."""
        return AsyncBatches(self)

    @cached_property
    def fine_tuning(self) -> AsyncFineTuning:
        """Training jobs, which can be waited for."""
        return AsyncFineTuning(self)

    @cached_property
    def responses(self) -> AsyncResponses:
        """Responses, with an argument `adapter`."""
        return AsyncResponses(self)

    async def limits(self) -> Limits:
        """The quotas of the tenant and of the key, and what is left of them."""
        return await self.get("/limits", cast_to=Limits)

    def _make_status_error(self, err_msg: str, *, body: object, response: Any) -> APIStatusError:
        return typed_error(super()._make_status_error(err_msg, body=body, response=response))

    async def _process_response(self, **arguments: Any) -> Any:
        with reading(**arguments):
            return await super()._process_response(**arguments)

    def _process_response_data(self, **arguments: Any) -> Any:
        check_fields(**arguments)
        return super()._process_response_data(**arguments)


def _base_url(given: object) -> str:
    url = str(given or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
    return f"{url.removesuffix('/v1')}/v1"


def _api_key(given: Any) -> Any:
    """Raises ValueError for one that no header can have, and does not show it."""
    key = given or os.environ.get(KEY_VARIABLE)
    if not isinstance(key, str):
        # One that gives the key, say.
        return key or "unused"
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"api_key (or {KEY_VARIABLE}) has characters that no key has, such as typographic quotes or a line break "
            "within it: copy the key again"
        )
    return key or "unused"


def _own_headers(client: OpenAI | AsyncOpenAI, options: dict[str, Any]) -> None:
    # OpenAI's client makes such a key for every call, and sends it under the name that is set here.
    client._idempotency_header = IDEMPOTENCY_HEADER
    client.organization = options.get("organization")
    client.project = options.get("project")
    # It has read OPENAI_CUSTOM_HEADERS, OPENAI_ADMIN_KEY and OPENAI_WEBHOOK_SECRET, and sends the first two.
    client._custom_headers = dict(options.get("default_headers") or {})
    client._ambient_authorizations = frozenset()
    client.admin_api_key = options.get("admin_api_key")
    client.webhook_secret = options.get("webhook_secret")
