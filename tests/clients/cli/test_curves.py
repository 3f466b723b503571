"""Curves of a job, drawn from its events."""

from __future__ import annotations

from clients.cli.curves import Curves


def test_rewards_are_drawn_as_they_come_and_the_newest_told() -> None:
    curves = Curves()
    assert (curves.draw(80, 12, 10), curves.latest()) == ("", {})
    curves.add({"step": 0, "valid_reward_mean": 0.25})
    for step in range(1, 6):
        curves.add({"step": step, "train_reward_mean": step / 10, "train_loss": 5.0})
    curves.add({"warning": "flat", "step": 5})
    curves.add(None)
    assert curves.latest() == {"train": 0.5, "valid": 0.25}
    drawn = curves.draw(80, 12, 10, colours=False)
    lines = drawn.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 12
    rising = [line for line in lines if any("\u2801" <= letter <= "\u28ff" for letter in line)]
    assert len(rising) >= 4, "a line that rises covers several rows"
    assert "0.520 |" in drawn and "(reward)" in drawn and "\x1b" not in drawn


def test_without_rewards_losses_are_drawn() -> None:
    curves = Curves()
    curves.add({"step": 1, "train_loss": 2.5, "valid_loss": 2.0})
    assert curves.kind == "loss" and "(loss)" in curves.draw(60, 10, None)
