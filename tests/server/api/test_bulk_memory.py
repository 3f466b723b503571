"""How much memory many adapters at once take: bounded by bytes, whatever their number and the length of each."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import safetensors.torch
import torch

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import MAX_U, Recipe
from server.api.app import create_app
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.database import Database
from server.registry.bulk_export import BATCH_BYTES, export_versions
from server.registry.bulk_ndjson import batches_of, lines_of
from server.registry.bulk_safetensors import MAX_FILE_ADAPTERS, fitting_file, safetensors_file
from server.registry.creation import NewVersion, create_versions
from server.registry.versions import StoredVersion
from tests.server.conftest import client_of
from tests.server.support.fake_engine import MODULES, PARTS, FakeEngine, tiny_factors
from tests.server.support.process import Process

MIB = 2**20
LONG = Recipe(rank=1, u=4096, groups=len(MODULES))  # 224 KiB in float32


@contextmanager
def peak() -> Iterator[SimpleNamespace]:
    """`peak().bytes`: the most that Python held at once in the block, beyond what it held before."""
    measured = SimpleNamespace(bytes=0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield measured
        _, most = tracemalloc.get_traced_memory()
        measured.bytes = most - before
    finally:
        tracemalloc.stop()


def long_adapter(factors: Factors) -> Adapter:
    return Adapter.from_vector(torch.full((LONG.groups, LONG.u), 0.5), LONG, factors.digest, "float32")


def long_versions(process: Process, factors: Factors, count: int) -> int:
    """Stores them; returns the bytes of their vectors."""
    adapter = long_adapter(factors)
    for start in range(0, count, 10):
        with process.database.write() as connection:
            items = [NewVersion(f"long/{number:04d}", adapter) for number in range(start, start + 10)]
            create_versions(process.database, connection, DEFAULT_TENANT_ID, items)
    return count * len(adapter.data)


async def test_long_lines_are_held_a_few_megabytes_at_a_time(client: httpx.AsyncClient) -> None:
    count = 72

    async def lines() -> AsyncIterator[bytes]:
        for number in range(count):
            yield json.dumps({"name": f"n/{number}", "vector": "A" * 1_000_000}).encode() + b"\n"

    with peak() as held:
        response = await client.post(
            "/adapters/bulk", content=lines(), headers={"content-type": "application/x-ndjson"}
        )
    totals = json.loads(response.text.splitlines()[-1])
    assert totals == {"object": "adapter.bulk", "stored": 0, "rejected": count, "complete": True}
    assert held.bytes < 4 * BATCH_BYTES < count * 1_000_000 / 1.5


async def pieces(body: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), length):
        yield body[start : start + length]


async def cut(body: bytes, length: int) -> list[Sequence[bytes]]:
    return [batch async for batch in batches_of(lines_of(pieces(body, length), MIB), most_lines=3, most_bytes=20)]


async def test_batches_are_cut_by_the_lines_and_not_by_the_pieces_they_came_in() -> None:
    lines = [b"one", b"", b"two", b"3", b"four", b"x" * 30, b"y" * 19, b"z", b"  ", b"end"]
    expected = [[b"one", b"two", b"3"], [b"four", b"x" * 30], [b"y" * 19, b"z"], [b"end"]]
    for length in (1, 2, 7, 1000):
        assert await cut(b"\n".join(lines), length) == expected
        assert await cut(b"\n".join(lines) + b"\n", length) == expected


async def test_a_line_in_many_pieces_is_read_in_the_memory_of_a_few() -> None:
    body = b"v" * MIB + b"\n"
    with peak() as held:
        assert [line async for line in lines_of(pieces(body, 16), MIB)] == [body[:-1]]
    assert held.bytes < 4 * MIB


async def test_of_a_line_that_is_too_long_little_is_held_and_the_next_one_is_read() -> None:
    kept: list[int] = []
    for length in (1, 7, 1000):
        found = [line async for line in lines_of(pieces(b"x" * 5000 + b"\nnext\n", length), 100, kept.append)]
        assert found == [b"x" * 101, b"next"]
    assert max(kept) == 101


async def test_the_longest_adapter_there_can_be_is_imported_as_it_was_exported(
    settings: Settings, app_database: Database, tmp_path: Path
) -> None:
    modules = [f"model.layers.{layer}.{part}" for layer in range(20) for part in PARTS]
    factors = tiny_factors(tmp_path, modules=modules)
    recipe = Recipe(rank=1, u=MAX_U, groups=len(modules))
    longest = Adapter.from_vector(torch.full((recipe.groups, recipe.u), 0.1), recipe, factors.digest, "float32")
    metadata = {f"{number:064d}": "\N{GRINNING FACE}" * 512 for number in range(16)}
    with app_database.write() as connection:
        create_versions(app_database, connection, DEFAULT_TENANT_ID, [NewVersion("long", longest, metadata)])
    async with client_of(create_app(settings, FakeEngine(factors), app_database)) as client:
        exported = (await client.get("/adapters/export")).content
        too_long = exported.replace(b"{", b"{" + b" " * MIB, 1)
        response = await client.post(
            "/adapters/bulk", content=too_long + exported, headers={"content-type": "application/x-ndjson"}
        )
    refused, stored, totals = (json.loads(line) for line in response.text.splitlines())
    assert len(exported) > 2 * MIB
    assert (refused["error"]["code"], stored["version"], totals["complete"]) == ("line_too_long", 2, True)


def test_an_export_holds_a_few_megabytes_at_a_time(process: Process, factors: Factors) -> None:
    stored = long_versions(process, factors, 160)
    with peak() as held:
        names = [version.name for version in export_versions(process.database, DEFAULT_TENANT_ID)]
    assert names == [f"long/{number:04d}" for number in range(160)]
    assert held.bytes < 2 * BATCH_BYTES < stored / 2


def test_a_listing_reads_no_vectors(process: Process, factors: Factors) -> None:
    long_versions(process, factors, 60)
    process.registry.list(DEFAULT_TENANT_ID)
    with peak() as held:
        page = process.registry.list(DEFAULT_TENANT_ID, limit=100)
    assert [item.stored.size for item in page.items] == [len(long_adapter(factors).data)] * 60
    assert held.bytes < MIB


def stored_version(name: str, adapter: Adapter, metadata: dict[str, str]) -> StoredVersion:
    return StoredVersion(name, 1, 0, adapter, "0" * 64, metadata)


@pytest.mark.parametrize("character", ["x", "\\", '"', "\N{GRINNING FACE}"])
def test_an_exported_file_is_as_long_as_an_upload_may_be_at_most(factors: Factors, character: str) -> None:
    metadata = {f"{number:064d}": character * 512 for number in range(16)}
    adapter = long_adapter(factors)
    versions = iter([stored_version(f"{number:0128d}", adapter, metadata) for number in range(40)])
    files, more = [], True
    while more:
        page, more = fitting_file(versions, 1000, 4 * MIB)
        files.append(safetensors_file(page))
    assert 2 < len(files) < 20
    assert max(len(file) for file in files) <= 4 * MIB
    assert 40 - len(files) < sum(len(safetensors.torch.load(file)) for file in files) <= 40


def test_a_file_has_so_many_tensors_and_says_whether_there_are_more(factors: Factors) -> None:
    adapter = Adapter.from_vector(torch.zeros(13, 1), Recipe(), factors.digest, "bfloat16")
    versions = [stored_version(f"n{number}", adapter, {}) for number in range(3)]
    assert fitting_file(versions, 2, MIB) == (versions[:2], True)
    assert fitting_file(versions, 3, MIB) == (versions, False)
    assert fitting_file(versions, 3, 1) == (versions[:1], True)  # the first always goes in
    assert fitting_file([], 3, 1) == ([], False)


async def test_a_file_of_very_many_tensors_is_refused_before_it_is_parsed(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_upload_bytes": 8 * MIB}), engine, app_database)
    header = json.dumps(
        {
            f"n{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for number in range(MAX_FILE_ADAPTERS + 1)
        }
    ).encode()
    body = len(header).to_bytes(8, "little") + header
    async with client_of(app) as client:
        with peak() as held:
            response = await client.post(
                "/adapters/bulk", content=body, headers={"content-type": "application/safetensors"}
            )
    assert response.status_code == 400
    assert f"more than {MAX_FILE_ADAPTERS} tensors" in response.json()["error"]["message"]
    assert held.bytes < 4 * len(body)
