"""The control groups of this process, in which Linux keeps the limits of containers and services.

There are two versions, and machines that have both. In version 2 one directory has all files of a group; in version 1
each controller has a tree of its own. A limit of a group holds for all below it. In a container the group's own path is
mostly that of the host, which is not there; what is mounted is then the container's group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def groups(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """The directories with the limits of `controller`, "memory" or "cpu", from the process's own group to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        trees = [root, root / "unified"] if number == "0" else [root / controller]
        if number != "0" and controller not in controllers.split(","):
            continue
        inside = PurePosixPath(path.strip("/"))
        for tree in trees:
            for group in (inside, *inside.parents):
                if (tree / group).is_dir():
                    yield tree / group


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float | None:
    """How many CPUs' time this process may take, by the least limit of its groups; None when there is no limit."""
    found = [quota for group in groups("cpu", root, own) if (quota := _quota(group)) is not None]
    return min(found, default=None)


def _quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return int(quota) / int(period) if quota not in ("max", "-1") else None
