"""Names of what a job publishes: `ft:<base>:<tenant>:<suffix>:<id>`, and `...:ckpt-step-<n>` for a checkpoint.

Design decision: they are ordinary names of adapters, so a result is served, listed, tagged with aliases and deleted as
any other adapter is. A base model's name is shortened where it would not fit or has characters that names do not have.
"""

from __future__ import annotations

import re

from server.names import MAX_NAME_LENGTH, check_name

ID_CHARS = 10
_LONGEST_CHECKPOINT = len(":ckpt-step-1000000")


def result_name(base_model: str, tenant: str, suffix: str | None, job_id: str) -> str:
    """The name of the job's result. BadRequest naming `suffix` when there is none that is allowed."""
    end = f":{tenant}:{suffix or ''}:{job_id[-ID_CHARS:]}"
    room = MAX_NAME_LENGTH - _LONGEST_CHECKPOINT - len("ft:") - len(end)
    base = re.sub(r"[^A-Za-z0-9._:/-]", "-", base_model)
    base = re.sub(r"/[^A-Za-z0-9]*(?=/|$)|(?<=/)[^A-Za-z0-9]+", "", base).strip("/")
    if len(base) > room:
        base = base.rpartition("/")[2][: max(room, 0)]
    return check_name(f"ft:{base}{end}", "suffix")


def checkpoint_name(result: str, step: int) -> str:
    """The name of the checkpoint behind `step` of the job whose result is called `result`."""
    return f"{result}:ckpt-step-{step}"
