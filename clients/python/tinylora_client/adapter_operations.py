"""What is sent for adapters: uploads, versions, aliases, downloads, many at once.

A reference is a name, `name@version`, `name@alias`, or `~tenant/name` for another tenant's public adapter.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from openai import OpenAIError

from tinylora_client.objects import (
    Adapter,
    AdapterDeleted,
    Alias,
    AliasDeleted,
    AliasMove,
    BulkResult,
    Rejected,
)
from tinylora_client.operation import Call, Emit, Listing, Series, Steps
from tinylora_client.peft_directory import peft_files
from tinylora_client.vectors import DType, Vector, VectorData, vector_to_wire

VectorSource = VectorData | Vector | Path
BULK_LINES = 10_000
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"


def upload(
    name: str,
    vector: VectorSource,
    *,
    recipe: Mapping[str, Any] | None = None,
    dtype: DType = "bfloat16",
    metadata: Mapping[str, str] | None = None,
    create_only: bool = False,
    idempotency_key: str | None = None,
) -> Call[Adapter]:
    """Store a vector as the next version of `name`.

    vector: groups * u numbers (a list, or an array of any library), or their bytes in `dtype`, little-endian; a Path
    of such bytes, of a .safetensors file, or of a directory that PEFT saved TinyLoRA or LoRA-XS in. Numbers are
    rounded to `dtype`. create_only: PreconditionFailedError when the name is taken.

    Raises InvalidVectorError, InvalidRecipeError, FactorsMismatchError, InvalidCheckpointError; ValueError and
    TypeError for what is no vector; FileNotFoundError.
    """
    headers = {"if-none-match": "*"} if create_only else {}
    if isinstance(vector, Path):
        if vector.is_dir() or vector.suffix == ".safetensors":
            if recipe is not None:
                raise ValueError(f"recipe is given, and {vector} has its own; leave it out")
            fields = {"name": name, **({"metadata": json.dumps(dict(metadata))} if metadata else {})}
            return Call(
                "post",
                "/adapters",
                Adapter,
                body=fields,
                files=peft_files(vector),
                extra_headers={"content-type": "multipart/form-data", **headers},
                idempotency_key=idempotency_key,
            )
        vector = vector.read_bytes()
    spec = vector.to_wire() if isinstance(vector, Vector) else {"vector": vector_to_wire(vector), "dtype": dtype}
    given = {"recipe": dict(recipe)} if recipe is not None else {}
    body = {"name": name, **spec, **given, **({"metadata": dict(metadata)} if metadata else {})}
    return Call("post", "/adapters", Adapter, body=body, extra_headers=headers, idempotency_key=idempotency_key)


def get(reference: str) -> Call[Adapter]:
    """The version that `reference` stands for; of an alias for several, the one with most weight."""
    return Call("get", _path(reference), Adapter)


def list_adapters(
    *, prefix: str = "", metadata: Mapping[str, str] | None = None, public: bool = False, limit: int = 100
) -> Listing[Adapter]:
    """The latest version of every adapter, by name, in pages of `limit`; `public`: those of all tenants that are."""
    query: dict[str, Any] = {"prefix": prefix, "public": str(public).lower(), "limit": limit}
    return Listing("/adapters", Adapter, query | {f"metadata.{key}": value for key, value in (metadata or {}).items()})


def versions(name: str, *, deleted: bool = False, limit: int = 100) -> Listing[Adapter]:
    """The versions of an adapter, newest first; or those that are deleted and can be restored."""
    return Listing(f"{_path(name)}/versions", Adapter, {"deleted": str(deleted).lower(), "limit": limit})


def download(reference: str, *, format: Literal["raw", "safetensors"] = "raw") -> Call[bytes]:
    """The bytes of a version's vector; or a safetensors file with its recipe and factors besides."""
    return Call("get", f"{_path(reference)}/vector", bytes, query={"format": format})


def delete(reference: str, *, purge: bool = False) -> Call[AdapterDeleted]:
    """Delete one version, or an adapter with all of its versions. `restore` takes it back unless it was to `purge`."""
    return Call("delete", _path(reference), AdapterDeleted, query={"purge": str(purge).lower()})


def restore(reference: str) -> Call[Adapter]:
    """Take a deletion back; the latest version that it brings back."""
    return Call("post", f"{_path(reference)}/restore", Adapter)


def set_public(name: str, public: bool = True) -> Call[Adapter]:
    """Let other tenants use an adapter, as `~tenant/name`; or no longer."""
    return Call("patch", _path(name), Adapter, body={"public": public})


def set_alias(
    name: str, alias: str, versions: int | Mapping[int, float], *, if_match: str | None = None
) -> Call[Alias]:
    """Let `name@alias` stand for one version, or for several, each with its weight, from now on.

    if_match: the `etag` of the alias as it was read; PreconditionFailedError when it was moved since.
    """
    body: dict[str, Any] = (
        {"version": versions}
        if isinstance(versions, int)
        else {"versions": {str(version): weight for version, weight in versions.items()}}
    )
    return Call("put", _alias_path(name, alias), Alias, body=body, extra_headers=_only_if(if_match))


def get_alias(name: str, alias: str) -> Call[Alias]:
    """What `name@alias` stands for."""
    return Call("get", _alias_path(name, alias), Alias)


def list_aliases(name: str) -> Listing[Alias]:
    """All aliases of an adapter, by name."""
    return Listing(f"{_path(name)}/aliases", Alias)


def remove_alias(name: str, alias: str, *, if_match: str | None = None) -> Call[AliasDeleted]:
    """Remove an alias; a rollback brings it back. if_match: as for `set_alias`."""
    return Call("delete", _alias_path(name, alias), AliasDeleted, extra_headers=_only_if(if_match))


def roll_back_alias(name: str, alias: str, *, if_match: str | None = None) -> Call[Alias]:
    """Let `name@alias` stand for what it did before it was last moved.

    Done again, it takes that back: with `if_match`, as for `set_alias`, only one of two who do it at once does.
    """
    return Call("post", f"{_alias_path(name, alias)}/rollback", Alias, extra_headers=_only_if(if_match))


def alias_history(name: str, alias: str, *, limit: int = 100) -> Listing[AliasMove]:
    """The moves of an alias, newest first."""
    return Listing(f"{_alias_path(name, alias)}/history", AliasMove, {"limit": limit})


def upload_many(
    adapters: Iterable[Mapping[str, Any]],
    *,
    on_progress: Callable[[BulkResult], object] | None = None,
    idempotency_key: str | None = None,
) -> Steps[BulkResult]:
    """Store many adapters, each as the next version of its name and with an outcome of its own.

    An adapter is {"name", "vector"} with the other arguments of `upload` besides: recipe, dtype, metadata. They are
    sent 10,000 at a time and never all in memory. With the same `idempotency_key` and the same adapters, what was
    interrupted goes on where it ended. on_progress: called behind every request with the result so far.
    """
    key = idempotency_key or uuid.uuid4().hex
    lines = (_line(adapter) for adapter in adapters)
    result = BulkResult(stored=0, rejected=[])
    number = 0
    while body := b"".join(islice(lines, BULK_LINES)):
        outcome = yield from upload_lines(body, first_index=number * BULK_LINES, idempotency_key=f"{key}-{number}")
        rejected = [*result.rejected, *outcome.rejected]
        result = BulkResult(stored=result.stored + outcome.stored, rejected=rejected, error=outcome.error)
        if on_progress is not None:
            on_progress(result)
        if result.error is not None:
            break
        number += 1
    return result


def upload_lines(
    body: bytes, *, media_type: str = NDJSON, first_index: int = 0, idempotency_key: str | None = None
) -> Steps[BulkResult]:
    """Store the adapters of `body` (NDJSON, or a safetensors file of many) in one request."""
    headers = {"content-type": media_type}
    call = Call("post", "/adapters/bulk", str, content=body, extra_headers=headers, idempotency_key=idempotency_key)
    text = yield from call
    try:
        *outcomes, totals = [json.loads(line) for line in text.splitlines()]
        complete = totals["complete"]
    except (ValueError, LookupError, TypeError) as why:
        raise OpenAIError(f"the answer to the upload has no outcomes in it, but {text[:80]!r}") from why
    rejected = [
        Rejected(index=first_index + one["index"], name=one["name"], message=one["error"]["message"])
        for one in outcomes
        if "error" in one
    ]
    error = None if complete else totals["error"]["message"]
    return BulkResult(stored=totals["stored"], rejected=rejected, error=error)


def export(*, prefix: str = "", page: int = BULK_LINES) -> Series[dict[str, Any]]:
    """The latest version of every adapter with its vector, as `upload_many` takes them; `page` in memory at a time."""
    query: dict[str, Any] = {"prefix": prefix, "limit": page}
    while True:
        text = yield from Call("get", "/adapters/export", str, query=query)
        lines = text.splitlines()
        for line in lines:
            yield Emit(json.loads(line))
        if len(lines) < page:
            return
        query["after"] = json.loads(lines[-1])["name"]


def _line(adapter: Mapping[str, Any]) -> bytes:
    vector = adapter["vector"]
    # As `export` gives it, a vector is base64 already.
    wire = {**adapter, "vector": vector if isinstance(vector, str) else vector_to_wire(vector)}
    return json.dumps(wire).encode() + b"\n"


def _only_if(if_match: str | None) -> dict[str, str]:
    return {} if if_match is None else {"if-match": if_match}


def _path(reference: str) -> str:
    return f"/adapters/{quote(reference, safe='/~@:')}"


def _alias_path(name: str, alias: str) -> str:
    return f"{_path(name)}/aliases/{quote(alias, safe='')}"
