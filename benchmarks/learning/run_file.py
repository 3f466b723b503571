"""The files of an experiment: one for the base model on a task, one for every arm and seed, written as they come.

    DIRECTORY/TASK/base.json           {"settings": {...}, "scores": {...}}
    DIRECTORY/TASK/ARM-SEED.json       {"settings": {...}, "arm": ..., "seed": ..., "after": {...}, ...}

Tables are made from these files and from nothing else. A file says by what settings it was made, also by which defaults
of the server, and on which rows; one that was made by others is never gone on with. Files of before rows were noted are
taken to be of the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.learning.job import Files, Part
from benchmarks.learning.tasks import Task

# greedy: one completion. sampled: several, at a temperature.
HOW = ("greedy", "sampled")
BASE = "base"


class Run:
    """A file of results and what is in it. Ends the program when that was made with other settings or rows."""

    def __init__(self, path: Path, settings: Mapping[str, Any], rows: str) -> None:
        """rows: as rows_digest says."""
        self.path = path
        begun = {"settings": settings, "rows": rows}
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else begun
        of, model = (one.get("model") for one in (self.values["settings"], settings))
        if of != model:
            raise SystemExit(f"{path} is of {of}, not of {model}; runs of each model need an --out of their own")
        if self.values["settings"] != json.loads(json.dumps(settings)):
            raise SystemExit(f"{path} was made with other settings; choose another --out, or delete it")
        if self.values.get("rows", rows) != rows:
            raise SystemExit(f"{path} was made with other rows, or another grader; choose another --out, or delete it")

    def save(self, **values: Any) -> None:
        """Add `values`; a reader never sees half of the file."""
        self.values |= values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".tmp")
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in self.values.items())
        whole.write_text(f"{{\n{lines}\n}}\n")
        whole.replace(self.path)


def rows_digest(files: Files, task: Task) -> str:
    """Of all rows, and of how their answers are sampled and graded."""
    parts: tuple[Part, ...] = ("train", "select", "test")
    digest = hashlib.sha256(json.dumps([dict(task.grader), task.max_tokens], sort_keys=True).encode())
    for part in parts:
        digest.update(files.of(part).read_bytes())
    return digest.hexdigest()


def read_runs(directory: Path) -> list[dict[str, Any]]:
    """The finished runs of a task, each with the base model's scores as "base", and as "before" if it has none of its
    own; `directory` is the task's. SystemExit where a run is of other rows than the base model's."""
    base = directory / f"{BASE}.json"
    if not base.exists():
        return []
    of_base = json.loads(base.read_text())
    scores = of_base.get("scores")
    runs = []
    for file in sorted(file for file in directory.glob("*.json") if file != base):
        run = {"base": scores, "before": scores, **json.loads(file.read_text())}
        if len({one["rows"] for one in (of_base, run) if "rows" in one}) > 1:
            raise SystemExit(f"{file} is of other rows, or of another grader, than {base}; delete one of them")
        if run.get("after") and scores:
            runs.append(run)
    return runs


def published(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured of the model that a job publishes: its best checkpoint on the rows to select by."""
    after = run["after"]
    return after.get("selected") or after["last"]  # type: ignore[no-any-return]
