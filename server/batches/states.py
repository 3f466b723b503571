"""The states of a batch, by OpenAI's names.

    validating -> in_progress -> finalizing -> completed | expired
    validating or in_progress -> cancelling -> cancelled
    validating or in_progress -> failed

A batch that fails while it is in progress is finalizing in between, as its answers are kept.
"""

from __future__ import annotations

from typing import Literal

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Outcome = Literal["completed", "failed", "expired", "cancelled"]
FINISHED: tuple[Outcome, ...] = ("completed", "failed", "expired", "cancelled")
