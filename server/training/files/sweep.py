"""Files that have expired, or are older than files are kept here, as a rule of the sweep (db/retention.py)."""

from __future__ import annotations

from dataclasses import dataclass

from server.core.settings import MAX_DAYS, Settings
from server.db.database import Database
from server.db.retention import DAY_S
from server.training.files.rows import delete_expired
from server.training.files.storage import FileStorage


@dataclass(frozen=True, slots=True)
class FileRule:
    """Rows go before bytes: what is left of a removal that was cut short is bytes that nobody can ask for."""

    kept_s: int
    files: FileStorage
    what: str = "files"

    def remove(self, database: Database, before: int, most: int) -> int:
        locations = database.transact(lambda connection: delete_expired(connection, before, most))
        for location in locations:
            self.files.delete(location)
        return len(locations)


def file_rule(settings: Settings, files: FileStorage) -> FileRule:
    """Without a limit of its own a file is kept for `file_retention_days`; 0 is for ever."""
    return FileRule((settings.file_retention_days or MAX_DAYS) * DAY_S, files)
