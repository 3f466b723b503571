"""Rounds and ratios of what is measured in turn."""

from __future__ import annotations

from benchmarks.paired import in_turn, speed


def test_every_round_asks_each_once_and_every_other_one_backwards() -> None:
    asked: list[str] = []
    results = in_turn({name: lambda name=name: asked.append(name) or len(asked) for name in "ab"}, 3)  # type: ignore[misc]
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert results == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_speed_is_of_neighbours_in_time() -> None:
    ratio = speed([1.0, 10.0, 3.0], [2.0, 10.0, 4.0])
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.75, 1.0)
    assert str(ratio) == "0.75 (0.50-1.00)"
