"""`tinylora migrate`, on both kinds of databases."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from server.launch.cli import cli
from tests.postgres import PASSWORD, PASSWORD_IN_URL, PostgresServer


def migrate(url: str) -> tuple[int, str]:
    done = CliRunner(env={"TINYLORA_DATABASE_URL": url, "NO_COLOR": "1"}).invoke(cli, ["migrate"])
    return done.exit_code, done.output


def test_an_empty_sqlite_file_gets_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    assert migrate(f"sqlite:///{path}") == (0, f"The database {path} has the tables of this version.\n")
    assert "adapters" in sa.inspect(sa.create_engine(f"sqlite:///{path}")).get_table_names()
    # Again there is nothing to do.
    assert migrate(f"sqlite:///{path}")[0] == 0


def test_so_does_postgresql_and_the_password_is_not_shown(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    url = postgres.url(name)
    code, output = migrate(url)
    assert (code, output) == (0, f"The database {name} has the tables of this version.\n")
    engine = sa.create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    assert "adapters" in sa.inspect(engine).get_table_names()
    engine.dispose()
    assert PASSWORD not in output and PASSWORD_IN_URL not in output


def test_a_database_that_is_not_there_is_said_so() -> None:
    code, output = migrate("postgresql://tinylora:secret@127.0.0.1:9/tinylora")
    assert code == 1
    assert "127.0.0.1" in output and "TINYLORA_DATABASE_URL" in output and "secret" not in output
