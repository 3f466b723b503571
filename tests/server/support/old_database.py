"""A database as an earlier version of the server has left it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from server.db.upgrade import MIGRATIONS
from server.db.url import parse_url


@contextmanager
def database_at(url: str, revision: str) -> Iterator[Connection]:
    """The empty database at `url` with the tables of the migration `revision`, to put rows into."""
    engine = sa.create_engine(parse_url(url))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        yield connection
    engine.dispose()
