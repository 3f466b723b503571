"""How much memory this machine, or this container, has left; sizes of memory for people."""

from __future__ import annotations

from pathlib import Path

import psutil

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that a new program could have, in a container those that its limit leaves."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup of version 2
        return available
    if limit == "max":
        return available
    # What was read from files counts as used, and is given up when it is needed.
    return min(available, int(limit) - used + int(statistics.get("inactive_file", 0)))


def gib(size: int, digits: int = 1) -> str:
    """Bytes for people; none where `size` is negative."""
    return f"{max(0, size) / GIB:.{digits}f} GiB"
