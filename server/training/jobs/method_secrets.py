"""The secrets within a job's method: headers and secrets of its endpoint graders and its environment.

What they become is the caller's: hidden in what is shown, sealed in what is stored, opened in what a worker gets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.core.seals import CannotOpen, Seals
from server.db.training_tables import JOBS

HOLDERS = ("grader", "environment")
# In the JSON of every method that has a secret.
ENDPOINT = '"endpoint"'
JOBS_AT_ONCE = 100


def method_with_secrets(method: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """`method`, OpenAI's object, with each of its secrets replaced by what `change` makes of it."""
    part = method.get(method["type"], {})
    changed = {name: with_secrets(part[name], change) for name in HOLDERS if name in part}
    return {**method, method["type"]: {**part, **changed}} if changed else dict(method)


def with_secrets(definition: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The definition of a grader or an environment in JSON, with what `change` makes of each of its secrets."""
    changed = dict(definition)
    if definition.get("type") == "endpoint":
        changed["headers"] = {name: change(value) for name, value in definition.get("headers", {}).items()}
        if definition.get("secret") is not None:
            changed["secret"] = change(definition["secret"])
    if isinstance(parts := definition.get("graders"), Mapping):
        changed["graders"] = {name: with_secrets(part, change) for name, part in parts.items()}
    return changed


def renew_job_secrets(connection: Connection, seals: Seals) -> int:
    """Seal the secrets of all jobs as those of new ones; of how many they cannot be opened, and stay as they are."""
    unreadable, after = 0, ""
    rows = sa.select(JOBS.c.id, JOBS.c.method).where(JOBS.c.method.contains(ENDPOINT, autoescape=True))
    page = rows.order_by(JOBS.c.id).limit(JOBS_AT_ONCE)
    while found := connection.execute(page.where(JOBS.c.id > after)).all():
        for after, stored in found:
            method = json.loads(stored)
            try:
                renewed = method_with_secrets(method, seals.renewed)
            except CannotOpen:
                unreadable += 1
                continue
            if renewed != method:
                connection.execute(JOBS.update().where(JOBS.c.id == after).values(method=json.dumps(renewed)))
    return unreadable
