"""/v1/audit on the wire."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.engine import Row

from server.api.schemas.pages import IdPage, StrictQuery

MAX_TIME = 2**40
ID_PREFIX = "audit_"


class AuditQuery(StrictQuery):
    """Which entries: of an action, of a target that begins with `target`, `since` and before `until` (seconds)."""

    after: str | None = Field(
        None, pattern=rf"^{ID_PREFIX}([0-9]{{1,18}}|[0-9a-f]{{28}})$", description="the last id of the page before"
    )
    limit: int = Field(20, ge=1, le=100)
    action: str | None = Field(None, max_length=64, pattern="^[ -~]*$")
    target: str = Field("", max_length=255, pattern="^[ -~]*$")
    since: int = Field(0, ge=0, le=MAX_TIME)
    until: int | None = Field(None, ge=0, le=MAX_TIME)
    all_tenants: bool = Field(False, description="of all tenants, with the scope admin")


class AuditEntry(BaseModel):
    """One change. `api_key_id` is null for the operator's keys, and on a server without keys."""

    object: Literal["audit_entry"] = "audit_entry"
    id: str
    created_at: int
    tenant: str
    api_key_id: str | None
    action: str
    target: str
    request_id: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: Row[Any]) -> AuditEntry:
        return cls(
            id=row.public_id or f"{ID_PREFIX}{row.id}",
            created_at=row.created_at,
            tenant=row.tenant,
            api_key_id=row.key_id,
            action=row.action,
            target=row.target,
            request_id=row.request_id,
            detail=json.loads(row.detail),
        )


class AuditPage(IdPage):
    """The next page has the query `after=<last_id>`."""

    data: list[AuditEntry]
