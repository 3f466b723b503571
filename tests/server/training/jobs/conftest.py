"""Processes that give out jobs, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.db.database import Database
from tests.server.support.training_process import TrainingProcess


@pytest.fixture
def gateway(database: Database) -> TrainingProcess:
    return TrainingProcess(database)


@pytest.fixture
def other(database: Database, database_url: str) -> Iterator[TrainingProcess]:
    """Another process's."""
    opened = Database(database_url)
    yield TrainingProcess(opened)
    opened.close()
