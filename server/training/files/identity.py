"""Whether a storage is the one that has the files of a database: a volume that was not mounted is an empty directory,
into which files would be written that are gone at the next start.

The database has an id (a migration makes it), and the storage has it in a small file. A storage without it is taken for
the right one if it has files that the database knows, or if the database knows none: one of before there were ids, or a
new one. Several gateways may look at once: all write the same.
"""

from __future__ import annotations

import io

import sqlalchemy as sa
import structlog

from server.core.errors import Unavailable
from server.db.database import Database
from server.db.training_tables import FILE_STORE, FILES
from server.training.files.storage import FileStorage

MARKER = ".tinylora-files"
MAX_MARKER_BYTES = 100
# Of the newest files: some may have lost their bytes, all of them have not.
LOOKED_FOR = 20


def why_not_the_store(database: Database, files: FileStorage, url: str) -> str | None:
    """Why `files`, at `url`, is not the storage of the database, and what to do; None where it is, or cannot be read.

    Blocks. Writes the database's id into a storage that has none.
    """
    with database.read() as connection:
        expected = connection.execute(sa.select(FILE_STORE.c.id)).scalar_one()
        newest = sa.select(FILES.c.location).where(FILES.c.deleted_at.is_(None)).order_by(FILES.c.id.desc())
        locations = list(connection.execute(newest.limit(LOOKED_FOR)).scalars())
    try:
        found = _marker(files)
        if found == expected:
            return None
        if locations and not any(files.has(location) for location in locations):
            return _refusal(url, expected, found)
        if found is None:
            files.write(io.BytesIO(expected.encode()), MARKER)
    except Unavailable:  # The log has the reason. Requests for files will say it, too.
        return None
    if found is not None:
        structlog.get_logger().warning("the storage of files is another database's, too", url=url, id=found)
    return None


def _marker(files: FileStorage) -> str | None:
    if not files.has(MARKER):
        return None
    with files.opened_at(MARKER, 0) as file:
        text = file.read(MAX_MARKER_BYTES).decode(errors="replace").strip()
    return text or None  # another gateway is about to write it


def _refusal(url: str, expected: str, found: str | None) -> str:
    has = "has no such file" if found is None else f"has {found} in it"
    return (
        f"{url} is not where this database's files are: it has none of the newest, and {has} as {MARKER}, where "
        f"{expected} was expected. Mount what has them, or set TINYLORA_FILES_URL to it. If they are lost for good, "
        f"write {expected} into {url.rstrip('/')}/{MARKER}."
    )
