"""Results of a benchmark in one JSON file, written as they come by all processes of it, so that none is lost."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock


@dataclass(frozen=True, slots=True)
class Results:
    path: Path

    def record(self, *keys: str, value: Any) -> None:
        """Set the value under the keys, one within the other. A reader never sees half of the file."""
        with FileLock(f"{self.path}.lock"):
            everything = self.read()
            place = everything
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            place[keys[-1]] = value
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(everything, indent=1) + "\n")
            os.replace(temporary, self.path)

    def read(self) -> dict[str, Any]:
        """All that was recorded; nothing when there is no file yet."""
        try:
            found: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return found
