"""The periodic removal of expired files."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import sqlalchemy as sa
import structlog

from server.core.background import repeating
from server.core.errors import ApiError
from server.db.database import Database
from server.training.files.rows import delete_expired
from server.training.files.storage import FileStorage

FIRST_S = 30.0
EVERY_S = 600.0


def remove_expired(database: Database, files: FileStorage) -> int:
    """Delete some expired files, rows before bytes; returns how many. There may be more. Blocks."""
    locations = database.transact(delete_expired)
    for location in locations:
        files.delete(location)
    return len(locations)


def sweeping_files(
    database: Database, files: FileStorage, first_s: float = FIRST_S, every_s: float = EVERY_S
) -> AbstractAsyncContextManager[None]:
    """Sweeps now and then while the block runs."""

    async def sweep(ended: asyncio.Event) -> None:
        try:
            while not ended.is_set() and (await asyncio.to_thread(remove_expired, database, files)) > 0:
                pass
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            structlog.get_logger().error("expired files not removed, kept until later", error=str(error))

    return repeating(sweep, first_s=first_s, every_s=every_s)
