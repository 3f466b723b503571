"""`client.adapters`: the adapters of the tenant that the client's key belongs to, sync and async."""

from __future__ import annotations

from openai import AsyncOpenAI, OpenAI

from tinylora_client import adapter_operations as operations
from tinylora_client.runners import awaits, iterates, iterates_async, lists, lists_async, sends


class Adapters:
    """Adapters, their versions and aliases. Every method raises openai.APIError and its kin."""

    def __init__(self, client: OpenAI) -> None:
        self._client = client

    upload = sends(operations.upload)
    get = sends(operations.get)
    list = lists(operations.list_adapters)
    versions = lists(operations.versions)
    download = sends(operations.download)
    delete = sends(operations.delete)
    restore = sends(operations.restore)
    set_public = sends(operations.set_public)
    set_alias = sends(operations.set_alias)
    get_alias = sends(operations.get_alias)
    list_aliases = lists(operations.list_aliases)
    remove_alias = sends(operations.remove_alias)
    roll_back_alias = sends(operations.roll_back_alias)
    alias_history = lists(operations.alias_history)
    upload_many = sends(operations.upload_many)
    upload_lines = sends(operations.upload_lines)
    export = iterates(operations.export)


class AsyncAdapters:
    """As Adapters, for the async client."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    upload = awaits(operations.upload)
    get = awaits(operations.get)
    list = lists_async(operations.list_adapters)
    versions = lists_async(operations.versions)
    download = awaits(operations.download)
    delete = awaits(operations.delete)
    restore = awaits(operations.restore)
    set_public = awaits(operations.set_public)
    set_alias = awaits(operations.set_alias)
    get_alias = awaits(operations.get_alias)
    list_aliases = lists_async(operations.list_aliases)
    remove_alias = awaits(operations.remove_alias)
    roll_back_alias = awaits(operations.roll_back_alias)
    alias_history = lists_async(operations.alias_history)
    upload_many = awaits(operations.upload_many)
    upload_lines = awaits(operations.upload_lines)
    export = iterates_async(operations.export)
