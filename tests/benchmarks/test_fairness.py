"""The benchmark of fairness, with few requests and an engine that answers at once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fairness import Round, main, print_table
from tests.server.support.keyed import ADMIN_KEY
from tests.server.support.serve_fake import CHUNK_VARIABLE, GatewayProcess


def test_ratios_are_of_the_requests_of_one_round(capsys: pytest.CaptureFixture[str]) -> None:
    """In the second round the machine is ten times slower, which changes no ratio."""
    refused = Counter({429: 3, 200: 1})
    print_table([Round([10.0] * 4, [20.0] * 4, refused), Round([100.0] * 4, [200.0] * 4, refused)])
    printed = capsys.readouterr().out
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in _rows(printed)}
    assert cells["alone"] == ["55 (10-100) ms"] * 2
    assert cells["beside the flood"] == ["110 (20-200) ms"] * 2
    assert cells["ratio"] == ["2.00 (2.00-2.00)"] * 2
    assert "6 of 8 with status 429 and 2 with 200" in printed


def test_a_flood_over_its_quota_is_refused_and_the_quiet_tenant_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = GatewayProcess({"TINYLORA_ADMIN_KEY": ADMIN_KEY, CHUNK_VARIABLE: "0.05"})
    try:
        url = gateway.serve(f"sqlite:///{tmp_path}/fair.db")
        main(["--url", url, "--admin-key", ADMIN_KEY, "--requests", "40", "--rounds", "1", "--warm-up", "3"])
    finally:
        gateway.kill()
    printed = capsys.readouterr().out
    found = re.search(r"(\d+) of (\d+) with status 429 and (\d+) with 200", printed)
    assert found is not None
    refused, sent, answered = map(int, found.groups())
    assert sent > 0
    assert refused > answered
    assert refused + answered == sent
    assert {row[0].strip() for row in _rows(printed)} >= {"alone", "beside the flood", "ratio"}


def _rows(printed: str) -> list[list[str]]:
    return [line.split("│")[1:-1] for line in printed.splitlines() if "│" in line]
