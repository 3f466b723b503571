"""The table of training's steps: ratios are of runs of the same round."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.train import PARTS, Row, print_table, rates


def rounds(*completions_per_s: float) -> list[Row]:
    return [Row(dict.fromkeys(PARTS, 16 / speed), speed, 50 * speed) for speed in completions_per_s]


def test_a_minute_in_which_the_machine_was_slow_changes_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"one job": rounds(4.0, 1.0, 4.0), "TRL": rounds(2.0, 0.5, 1.0)}
    print_table(Namespace(batch_size=2, group_size=8), rows)
    _, _, _, *lines = capsys.readouterr().out.splitlines()
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in lines if "│" in line
    }
    assert cells["one job"] == [*["4.00"] * len(PARTS), "4.00", "1.00 (1.00-1.00)", "200"]
    assert cells["TRL"] == [*["16.00"] * len(PARTS), "1.00", "0.50 (0.25-0.50)", "50"]


def test_rates_are_of_what_was_done_meanwhile() -> None:
    before = [Namespace(step=1, trained_tokens=100), Namespace(step=2, trained_tokens=300)]
    after = [Namespace(step=3, trained_tokens=500), Namespace(step=3, trained_tokens=400)]
    assert rates(before, after, 2.0) == (1.5, 250.0)


def test_jobs_that_were_never_seen_at_work_have_no_rate() -> None:
    ended = [Namespace(step=2, trained_tokens=100)]
    with pytest.raises(SystemExit, match="more --steps"):
        rates(ended, ended, 0.001)
