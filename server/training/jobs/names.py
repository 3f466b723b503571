"""Names of what a job publishes: `ft:<base>:<tenant>:<suffix>:<id>`, and `...:ckpt-step-<n>` for a checkpoint.

They are ordinary names of adapters, so a result is served, listed, tagged with aliases and deleted like any other
adapter. The base model's name and the suffix, which may be any text as at OpenAI, are shortened and lose characters
that names do not have; the id behind them makes a name unique.
"""

from __future__ import annotations

import re
import unicodedata

from server.core.names import MAX_NAME_LENGTH, check_name

ID_CHARS = 10
# A job of 50,000 rows may have 1000 epochs of single rows.
_LONGEST_CHECKPOINT = len(":ckpt-step-50000000")
# Fewest characters that a long suffix leaves to the base model's name.
_LEAST_BASE = 12


def result_name(base_model: str, tenant: str, suffix: str | None, job_id: str) -> str:
    """The name of the job's result, for any suffix."""
    room = MAX_NAME_LENGTH - _LONGEST_CHECKPOINT - len(f"ft:::{tenant}:{job_id[-ID_CHARS:]}")
    end = f":{tenant}:{_slug(suffix or '')[: max(0, room - _LEAST_BASE)].rstrip('-.')}:{job_id[-ID_CHARS:]}"
    room = MAX_NAME_LENGTH - _LONGEST_CHECKPOINT - len("ft:") - len(end)
    base = re.sub(r"[^A-Za-z0-9._:/-]", "-", base_model)
    base = re.sub(r"/[^A-Za-z0-9]*(?=/|$)|(?<=/)[^A-Za-z0-9]+", "", base).strip("/")
    if len(base) > room:
        base = base.rpartition("/")[2][: max(room, 0)]
    return check_name(f"ft:{base}{end}", "suffix")


def checkpoint_name(result: str, step: int) -> str:
    """The name of the checkpoint behind `step` of the job whose result is called `result`."""
    return f"{result}:ckpt-step-{step}"


def _slug(text: str) -> str:
    """`text` in the characters of names: accents are dropped, others become hyphens; runs of - and . become one."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    return re.sub(r"[-.]{2,}", lambda run: "." if "." in run[0] else "-", plain).strip("-.")
