"""Adapters over the official openai client: upload, look up, download, delete, and name versions by aliases.

    from openai import OpenAI
    from clients.adapters import Adapters

    client = OpenAI(base_url="http://localhost:8000/v1", api_key=...)
    Adapters(client).upload("acme/math", vector)
    client.chat.completions.create(..., extra_body={"adapter": "acme/math"})

Design decision: requests go through the openai client and not a client of our own, so keys, retries, timeouts, proxies
and exceptions are those its users know. Every answer is the server's JSON object.

It knows nothing of the server but its HTTP API, and imports nothing of it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from openai import HttpxBinaryResponseContent, OpenAI

DType = Literal["bfloat16", "float16", "float32"]


class Adapters:
    """The adapters of the tenant that `client`'s key belongs to. Raises openai.APIError and its kin."""

    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def upload(
        self,
        name: str,
        vector: bytes | Sequence[float],
        *,
        recipe: Mapping[str, Any] | None = None,
        dtype: DType = "bfloat16",
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Store `vector` as the next version of `name`: bytes in `dtype`, little-endian, or groups * u numbers."""
        body = {
            "name": name,
            "vector": base64.b64encode(vector).decode() if isinstance(vector, bytes) else list(vector),
            "dtype": dtype,
            "recipe": dict(recipe or {}),
            "metadata": dict(metadata or {}),
        }
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._object(self._client.post("/adapters", cast_to=object, body=body, options={"headers": headers}))

    def get(self, reference: str) -> dict[str, Any]:
        """The adapter that `name`, `name@version` or `name@alias` stands for."""
        return self._object(self._client.get(f"/adapters/{reference}", cast_to=object))

    def list(
        self, *, prefix: str = "", metadata: Mapping[str, str] | None = None, public: bool = False, limit: int = 100
    ) -> Iterator[dict[str, Any]]:
        """The latest versions, by name, page after page of `limit`; `public` ones are those of every tenant."""
        query: dict[str, Any] = {"limit": limit, "prefix": prefix, "public": str(public).lower()}
        query |= {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        while True:
            page = self._object(self._client.get("/adapters", cast_to=object, options={"params": query}))
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    def vector(self, reference: str) -> bytes:
        """The bytes of a version's vector."""
        return self._client.get(f"/adapters/{reference}/vector", cast_to=HttpxBinaryResponseContent).read()

    def delete(self, reference: str) -> dict[str, Any]:
        """Delete one version, or an adapter with all of its versions; `restore` takes it back."""
        return self._object(self._client.delete(f"/adapters/{reference}", cast_to=object))

    def restore(self, reference: str) -> dict[str, Any]:
        """Take a deletion back."""
        return self._object(self._client.post(f"/adapters/{reference}/restore", cast_to=object))

    def set_alias(self, name: str, alias: str, versions: int | Mapping[int, float]) -> dict[str, Any]:
        """Let `name@alias` stand for one version, or for several, each with its weight, from now on."""
        body: dict[str, Any] = (
            {"version": versions}
            if isinstance(versions, int)
            else {"versions": {str(version): weight for version, weight in versions.items()}}
        )
        return self._object(self._client.put(f"/adapters/{name}/aliases/{alias}", cast_to=object, body=body))

    def roll_back_alias(self, name: str, alias: str) -> dict[str, Any]:
        """Let `name@alias` stand for what it did before it was last moved."""
        return self._object(self._client.post(f"/adapters/{name}/aliases/{alias}/rollback", cast_to=object))

    @staticmethod
    def _object(answer: object) -> dict[str, Any]:
        return cast(dict[str, Any], answer)
