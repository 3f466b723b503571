"""The database's URL, and what to tell an operator whose database cannot be used.

Messages name the user, host, port and name of a database, never the URL, which has the password.
"""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.engine import URL, make_url

# What PostgreSQL's client library is told unless the URL says otherwise.
POSTGRESQL_DEFAULTS = {
    "application_name": "tinylora",
    "client_encoding": "utf8",
    "connect_timeout": "5",  # seconds
    # Until a host that vanished counts as gone: one that is sent something (milliseconds), one that works (seconds).
    "tcp_user_timeout": "10000",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "target_session_attrs": "read-write",  # never a replica, whose answers would be old
}

_ADVICE = {
    r"password|authentication|no pg_hba\.conf entry|role .* does not exist": (
        "Correct the user and password in TINYLORA_DATABASE_URL"
    ),
    r"database .* does not exist": "Create it with `createdb`, or correct the name in TINYLORA_DATABASE_URL",
    r"permission denied for schema": "Make the user the database's owner: ALTER DATABASE ... OWNER TO ...",
    r"translate host name|resolve host": "Correct the host in TINYLORA_DATABASE_URL",
    r"refused|timeout|timed out|No such file|unreachable|starting up|too many": (
        "Start the server there, or correct host and port in TINYLORA_DATABASE_URL"
    ),
    r"read-only|readonly|unable to open|disk": (
        "See to the disk, and to who may write the file and its directory, or name another one in TINYLORA_DATABASE_URL"
    ),
    r"not a database": "Name another file in TINYLORA_DATABASE_URL",
    r"locked": "Another process is writing it; stop that one, or raise TINYLORA_DATABASE_BUSY_TIMEOUT_S",
}


class DatabaseStartError(ValueError):
    """The database cannot be used. The message is for the operator: what is wrong, where, and what to do."""


def parse_url(url: str) -> URL:
    """SQLAlchemy's URL, with our driver and defaults for PostgreSQL, and SQLite's directory made.

    DatabaseStartError for another kind of database, or a URL that is none.
    """
    try:
        parsed = make_url(url)
        backend = parsed.drivername.partition("+")[0]
    # The port is not a number; the message of that would quote the URL.
    except (sa.exc.ArgumentError, ValueError):
        backend = ""
    if backend == "sqlite":
        return _with_directory(parsed)
    if backend not in ("postgresql", "postgres"):
        kind = f"begins with {backend}://" if backend else "is not a URL"
        raise DatabaseStartError(
            f"TINYLORA_DATABASE_URL {kind}, expected sqlite:///file or postgresql://user:password@host/database"
        )
    if parsed.host and "@" in parsed.host:
        raise DatabaseStartError("TINYLORA_DATABASE_URL has more than one '@': write the one in the password as %40")
    parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.update_query_dict({k: v for k, v in POSTGRESQL_DEFAULTS.items() if k not in parsed.query})


def described(url: URL) -> str:
    """The URL without its password and options."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    host = url.host or url.query.get("host") or "(default host)"
    user, port = f"{url.username}@" if url.username else "", f":{url.port}" if url.port else ""
    return f"postgresql://{user}{host}{port}/{url.database or ''}"


def why_unusable(url: URL, error: Exception) -> str:
    """A sentence for the operator about an error at start-up."""
    if isinstance(error, CommandError):
        return (
            f"The database {described(url)} was made by a newer version of this server ({error}). "
            "Start that version, or restore the database from before the upgrade."
        )
    reason = str(getattr(error, "orig", None) or error)
    advice = next((advice for pattern, advice in _ADVICE.items() if re.search(pattern, reason, re.IGNORECASE)), None)
    said = "; ".join(line.strip() for line in reason.splitlines() if line.strip())
    return f"The database {described(url)} cannot be used: {said}. {advice or 'See the log of the database'}."


def _with_directory(url: URL) -> URL:
    if not url.database or url.database == ":memory:":
        raise DatabaseStartError(
            f"TINYLORA_DATABASE_URL is {url}: the registry needs a file, as in sqlite:///data/tinylora.db"
        )
    directory = Path(url.database).absolute().parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseStartError(
            f"The directory {directory} of the database cannot be made: {error.strerror}. Name another file "
            "in TINYLORA_DATABASE_URL, as in sqlite:////var/lib/tinylora/tinylora.db."
        ) from error
    return url
