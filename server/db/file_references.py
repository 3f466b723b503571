"""The rows of deleted files: they stay for as long as a job, a batch or an upload refers to them."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.db.batch_tables import BATCHES
from server.db.training_tables import FILES, JOBS
from server.db.upload_tables import UPLOADS

REFERENCES = (
    JOBS.c.training_file,
    JOBS.c.validation_file,
    BATCHES.c.input_file_id,
    BATCHES.c.output_file_id,
    BATCHES.c.error_file_id,
    UPLOADS.c.file_id,
)


def forget_deleted(connection: Connection, file_ids: Collection[str | None]) -> None:
    """Remove the rows of those of these files that are deleted, and that nothing refers to any more."""
    ids = sorted({file_id for file_id in file_ids if file_id is not None})
    referred = sa.or_(*(sa.exists().where(column == FILES.c.id) for column in REFERENCES))
    if ids:
        connection.execute(FILES.delete().where(FILES.c.id.in_(ids), FILES.c.deleted_at.is_not(None), ~referred))
