"""The benchmark of the registry, on a handful of adapters."""

from __future__ import annotations

from pathlib import Path

from benchmarks.registry import fill, probe


async def test_a_gateway_answers_on_what_was_filled(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/few.db"
    fill(url, 3)
    figures = await probe(url, 3)
    assert figures.start_ms > 0
