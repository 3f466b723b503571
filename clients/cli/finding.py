"""What a check of `tinylora doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """check: its name, which stays the same. advice: what to do; None where there is nothing to do."""

    check: str
    status: Status
    found: str
    advice: str | None = None
