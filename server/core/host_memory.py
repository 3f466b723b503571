"""How much memory this machine, or this container, has left; sizes of memory for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from server.core.cgroups import OWN, ROOT, groups

GIB = 2**30
# The files of a group in version 2 and in version 1: its limit, what it uses, and the name of what can be given up.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(cgroup: Path = ROOT, own: Path = OWN) -> int:
    """Bytes that a new program could have, in a container those that its limit leaves."""
    left = [limit - used for limit, used in _limits(cgroup, own)]
    return min([int(psutil.virtual_memory().available), *(max(0, size) for size in left)])


def total_memory(cgroup: Path = ROOT, own: Path = OWN) -> int:
    """Bytes that all programs together could have, in a container those of its limit."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _limits(cgroup, own))])


def _limits(cgroup: Path, own: Path) -> Iterator[tuple[int, int]]:
    """The limit of each group that has one, and what is used of it."""
    for group in groups("memory", cgroup, own):
        if (found := _limit(group)) is not None:
            yield found


def _limit(group: Path) -> tuple[int, int] | None:
    for limit_file, used_file, given_up in _FILES:
        try:
            limit, used = (group / limit_file).read_text().strip(), int((group / used_file).read_text())
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        # What was read from files counts as used, and is given up when it is needed.
        return None if limit == "max" else (int(limit), used - int(statistics.get(given_up, 0)))
    return None


def gib(size: int, digits: int = 1) -> str:
    """Bytes for people; none where `size` is negative."""
    return f"{max(0, size) / GIB:.{digits}f} GiB"
