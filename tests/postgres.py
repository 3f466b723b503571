"""A PostgreSQL server of the tests' own, from the programs installed on this machine.

Design decision: a real server in a temporary directory, started once and stopped with the tests, however they end. Each
test gets a database of its own, copied from a migrated one.

It is not durable (fsync is off), and its names sort by ICU's rules for English, unlike SQLite's, so that nothing comes
to depend on how names are sorted.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

PASSWORD = "p@ss/word: 100%"
SKIP_VARIABLE = "TINYLORA_TEST_POSTGRES"
NOT_INSTALLED = (
    "PostgreSQL is not installed, and these tests are against a real one: apt-get install postgresql "
    f"(or brew install postgresql), or leave them out with {SKIP_VARIABLE}=skip"
)
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
    "deadlock_timeout": "50ms",
}


def find_programs() -> Path | None:
    """The directory of initdb and postgres of the newest installed version."""
    on_path = shutil.which("initdb")
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: int(p.split("/")[4]))
    found = debian[-1:] or ([os.path.realpath(on_path)] if on_path else [])
    return Path(found[0]).parent if found else None


class PostgresServer:
    """A running server. `url(name)` is over TCP with a password, as between machines."""

    def __init__(self, programs: Path, **options: str) -> None:
        self._programs = programs
        self._options = {**_OPTIONS, **options}
        # Not below pytest's directories: those are closed to the user that runs the server when we are root.
        self.directory = Path(tempfile.mkdtemp(prefix="tinylora-postgres-"))
        self._data = self.directory / "data"
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the data directory and start."""
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        subprocess.run(
            [
                *self._as_user(), self._programs / "initdb", "--pgdata", self._data, "--username", "postgres",
                "--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile", password_file, "--no-sync",
                "--encoding", "UTF8", "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US",
            ],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = [f"--{name}={value}" for name, value in self._options.items()]
        places = ["-D", self._data, "-k", self.directory, "-p", str(self.port)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), self._programs / "postgres", *places, *options], stderr=log, stdout=log, cwd="/"
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.admin_conninfo).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {(self.directory / 'log').read_text()}") from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop at once: connections are cut, what was committed stays."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._postmaster(), how)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop, and remove the data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def admin_conninfo(self) -> str:
        """The superuser's, over the socket, where no password is asked for."""
        return f"host={self.directory} port={self.port} user=postgres dbname=postgres"

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql://postgres:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str | None = None) -> str:
        """The name of a new database, empty or a copy of `template`, to which nobody may be connected."""
        name = f"test_{next(self._numbers)}"
        copy = f"TEMPLATE {template} STRATEGY FILE_COPY" if template else ""
        self.execute(f"CREATE DATABASE {name} {copy}")
        return name

    def drop(self, database: str) -> None:
        """Remove a database and whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run a statement as the superuser."""
        with psycopg.connect(self.admin_conninfo, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _as_user(self) -> list[str]:
        # pdeathsig: it ends even with tests that were killed.
        if shutil.which("setpriv") is None:
            return []
        user = ["--reuid", self._user, "--regid", self._user, "--clear-groups"] if self._user else []
        return ["setpriv", "--pdeathsig", "INT", *user]

    def _postmaster(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])


PASSWORD_IN_URL = "p%40ss%2Fword%3A%20100%25"


@contextlib.contextmanager
def running_server(programs: Path, **options: str) -> Iterator[PostgresServer]:
    """A new server, removed in the end. `options` are settings of PostgreSQL's."""
    server = PostgresServer(programs, **options)
    try:
        server.create()
        yield server
    finally:
        server.remove()
