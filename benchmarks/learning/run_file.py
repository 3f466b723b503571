"""The files of an experiment: one for the base model on a task, one for every arm and seed, written as they come.

    DIRECTORY/TASK/base.json           {"settings": {...}, "scores": {...}}
    DIRECTORY/TASK/ARM-SEED.json       {"settings": {...}, "arm": ..., "seed": ..., "after": {...}, ...}

Tables are made from these files and from nothing else. A file says by what settings it was made, also by which defaults
of the server; one that was made by others is never gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# greedy: one completion. sampled: several, at a temperature.
HOW = ("greedy", "sampled")
BASE = "base"


class Run:
    """A file of results and what is in it. Ends the program when that was made with other settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": settings}
        if self.values["settings"] != json.loads(json.dumps(settings)):
            raise SystemExit(f"{path} was made with other settings; choose another --out, or delete it")

    def save(self, **values: Any) -> None:
        """Add `values`; a reader never sees half of the file."""
        self.values |= values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".tmp")
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in self.values.items())
        whole.write_text(f"{{\n{lines}\n}}\n")
        whole.replace(self.path)


def read_runs(directory: Path) -> list[dict[str, Any]]:
    """The finished runs of a task, each with the base model's scores as "before"; `directory` is the task's."""
    base = directory / f"{BASE}.json"
    if not base.exists():
        return []
    before = json.loads(base.read_text()).get("scores")
    files = sorted(file for file in directory.glob("*.json") if file != base)
    runs = [{"before": before, **json.loads(file.read_text())} for file in files]
    return [run for run in runs if run.get("after") and run["before"]]


def published(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured of the model that a job publishes: its best checkpoint on the rows to select by."""
    after = run["after"]
    return after.get("selected") or after["last"]  # type: ignore[no-any-return]
