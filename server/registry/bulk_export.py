"""Reading all adapters of a tenant, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import sqlalchemy as sa

from server.db.database import Database
from server.db.tables import ADAPTER_VERSIONS, ADAPTERS
from server.registry.store import AFTER_NAMES
from server.registry.versions import VECTOR_SIZE, VERSION_ROWS, StoredVersion, version_of

# Long enough that a transaction's fixed cost does not count, short enough that other writers hardly wait.
BATCH = 1000
# Of what a batch may hold in memory, for vectors may be as long as a line.
BATCH_BYTES = 8 * 2**20


def export_versions(
    database: Database, tenant_id: int, *, after: str = "", prefix: str = "", all_versions: bool = False
) -> Iterator[StoredVersion]:
    """The tenant's adapters behind the name `after`, by name: the latest version of each, or all, oldest first.

    Read a page at a time, so that a slow reader holds no transaction open; a page has BATCH versions or, where they are
    long, about BATCH_BYTES.
    """
    name, version = ADAPTERS.c.name, ADAPTER_VERSIONS.c.version
    wanted = [ADAPTERS.c.tenant_id == tenant_id, ADAPTER_VERSIONS.c.deleted_at.is_(None)]
    if not all_versions:
        wanted.append(version == ADAPTERS.c.latest_version)
    if prefix:
        wanted += [name >= prefix, name < prefix + AFTER_NAMES]
    last = (after, 2**31 - 1)
    while True:
        behind = sa.or_(name > last[0], sa.and_(name == last[0], version > last[1]))
        page = VERSION_ROWS.where(*wanted, name >= last[0], behind).order_by(name, version)
        with database.read() as connection:
            sizes = connection.execute(page.with_only_columns(VECTOR_SIZE).limit(BATCH)).scalars().all()
            found = [version_of(row) for row in connection.execute(page.limit(_fitting(sizes)))]
        yield from found
        if len(found) == len(sizes) < BATCH:
            return
        last = (found[-1].name, found[-1].version)
        del found  # or it would be held while the next page is read


def _fitting(sizes: Sequence[int]) -> int:
    """How many vectors of these sizes are read at once: at least one, if there are any."""
    return sum(total - size < BATCH_BYTES for size, total in zip(sizes, accumulate(sizes), strict=True))
