"""The table of a batch that was killed on its way, and whether all of it is as it should be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

CHAT_TOKENS = 32
MOST_RATIO = 1.3
MOST_GROWTH_BYTES = 256 * 2**20
MIB = 2**20


class Checks:
    """A table of what was found, and whether it is right where that can be said."""

    def __init__(self, title: str) -> None:
        self.table = Table("", "", "as it should be", title=title)
        self.passed = True

    def add(self, what: str, value: str, *, right: bool | None = None) -> None:
        """A row."""
        self.table.add_row(what, value, "" if right is None else "yes" if right else "NO")
        self.passed = self.passed and right is not False


def report(found: Mapping[str, Any], lines: int, kills: int) -> bool:
    """Print what benchmarks/batches.py has `found`; whether all of it is right."""
    killed = found.get("kills", [])
    checks = Checks(f"A batch of {lines} lines of one token, killed {len(killed)} times")
    checks.add("killed after lines", ", ".join(map(str, killed)) or "-", right=len(killed) == kills)
    checks.add("in the output exactly once", f"{found['once']} of {lines}", right=found["once"] == lines)
    _add_usage(checks, found, lines)
    for number, life in enumerate(found["lives"], 1):
        memory = [life[name] / MIB for name in ("start_bytes", "most_bytes", "last_bytes")]
        grown = life["most_bytes"] - life["start_bytes"]
        checks.add(
            f"gateway {number}: MiB at the start, the most, the last",
            ", ".join(f"{mib:.0f}" for mib in memory),
            right=grown <= MOST_GROWTH_BYTES,
        )
        checks.add(
            f"gateway {number}: processor seconds, its engine's", f"{life['gateway_s']:.0f}, {life['engine_s']:.0f}"
        )
    _add_chats(checks, found)
    seconds, answered = found.get("quiet", (0.0, 0))
    if seconds:
        checks.add("lines a second, nothing else being asked", f"{answered / seconds:.1f} over {seconds:.0f} s")
    took = found["ended_at"] - found["began_at"]
    checks.add("lines a second, with starts and chats", f"{lines / took:.1f} in {took:.0f} s")
    Console(width=120).print(checks.table)
    return checks.passed


def _add_usage(checks: Checks, found: Mapping[str, Any], lines: int) -> None:
    """What is booked is what is in the output, and what was computed again because its answer was lost."""
    (requests, *booked), output = found["booked"], found["tokens"]
    again = requests - lines
    right = booked == output if not again else again > 0 and all(map(int.__le__, output, booked))
    checks.add("tokens in the output (prompts, answers)", f"{output[0]}, {output[1]}")
    checks.add("booked on the tenant", f"{booked[0]}, {booked[1]}; {again} lines were asked again", right=right)


def _add_chats(checks: Checks, found: Mapping[str, Any]) -> None:
    rounds = found.get("rounds", [])
    if not rounds:
        return
    chats = {way: [seconds for each in rounds for seconds in each[way]] for way in ("alone", "beside")}
    alone, beside = (statistics.median(chats[way]) for way in ("alone", "beside"))
    checks.add(
        f"p50 of a chat of {CHAT_TOKENS} tokens, alone and beside",
        f"{alone:.2f} s, {beside:.2f} s ({len(chats['alone'])} of each)",
    )
    ratios = [statistics.median(each["beside"]) / statistics.median(each["alone"]) for each in rounds]
    by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    ratio = beside / alone
    checks.add("their ratio, and by round", f"{ratio:.2f}, at most {MOST_RATIO}; {by_round}", right=ratio <= MOST_RATIO)
