"""Rows are made and locked in one order, whatever the order in which they come: writers wait, and none deadlocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from prometheus_client import Counter

from server.api.bulk_import import BulkImport
from server.api.writes import AuditedWrites, Author
from server.core.principal import DEFAULT_TENANT, DEFAULT_TENANT_ID, Principal, Tenant
from server.core.request_state import RequestUsage
from server.db.tables import ADAPTERS
from server.engine.protocol import ServedAdapter
from server.inference.usage_meter import UsageMeter
from server.registry.creation import NewVersion, create_versions
from tests.server.support.process import Process, adapter

NAMES = ["m/3", "a", "z", "m/1", "b"]


@contextmanager
def inserted(table: str) -> Iterator[list[Any]]:
    """The parameters of rows inserted into `table` within the block, in the order in which the database gets them."""
    rows: list[Any] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(f"INSERT INTO {table} "):
            rows.extend(parameters if many else [parameters])

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield rows
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def texts(rows: list[Any], wanted: list[str]) -> list[str]:
    """Those of the parameters that are wanted, in their order."""
    values = [value for row in rows for value in (row.values() if isinstance(row, dict) else row)]
    return [value for value in values if value in wanted]


def test_adapters_of_a_batch_by_name(process: Process) -> None:
    items = [NewVersion(name, adapter()) for name in NAMES]
    with inserted("adapters") as rows:
        process.write(lambda to: create_versions(process.database, to, DEFAULT_TENANT_ID, items))
    assert texts(rows, NAMES) == sorted(NAMES)
    assert [process.versions(name) for name in NAMES] == [[1]] * 5


def test_adapters_of_an_import_by_name_though_some_are_refused(process: Process) -> None:
    limited = process.new_tenant("limited", max_adapters=4)
    limited.create("z")
    author = Author(Principal(Tenant(limited.tenant_id, "limited"), None, frozenset()))
    importing = BulkImport(AuditedWrites(process.database), process.database, author)
    with inserted("adapters") as rows:
        outcomes = importing.store(0, 0, [NewVersion(name, adapter()) for name in NAMES])
    assert [outcome.get("version") for outcome in outcomes] == [1, 1, 2, 1, None]
    # Twice: all at once is refused as a whole. Then one by one those that are locked already.
    assert texts(rows, NAMES)[:10] == sorted(NAMES) * 2
    with process.database.read() as connection:
        left = connection.execute(sa.select(ADAPTERS.c.name).where(ADAPTERS.c.tenant_id == limited.tenant_id))
        assert sorted(left.scalars()) == sorted(set(NAMES) - {"b"})


def test_usage_by_its_key(process: Process) -> None:
    meter = UsageMeter(process.database, Counter("failures", "", registry=None), clock=lambda: 3600.0)
    principal = Principal(DEFAULT_TENANT, None, frozenset())
    wanted = [f"{name}@1" for name in NAMES]
    for name in wanted:
        with meter.counted(principal, ServedAdapter(name, adapter(), name), usage := RequestUsage()):
            usage.add(1, 1)
    with inserted("usage") as rows:
        meter.flush()
    assert texts(rows, wanted) == sorted(wanted)
