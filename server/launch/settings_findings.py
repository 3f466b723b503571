"""What is wrong with the settings in the environment, and whether the database, files and Redis they name can be used.

Nothing is made or changed: not the database, not a directory.
"""

from __future__ import annotations

import difflib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import redis
import sqlalchemy as sa
from pydantic import SecretStr, ValidationError

from clients.cli.finding import Finding
from server.core.settings import Settings
from server.core.settings_errors import explain
from server.core.settings_urls import without_password
from server.db.url import DatabaseStartError, described, parse_url, why_unusable
from server.launch.embedded_model import MODELS_DIR_VARIABLE
from server.launch.start_checks import can_hold_files, nearest_existing

PREFIX = "TINYLORA_"
REDIS_TIMEOUT_S = 3.0
# Of clients, of the example of a grader, and of tests.
OTHERS = ("TINYLORA_URL", "TINYLORA_API_KEY", "TINYLORA_TENANT", "TINYLORA_SECRET", MODELS_DIR_VARIABLE)
OF_TESTS = ("TINYLORA_TEST_", "TINYLORA_FUZZ_")
# What Kubernetes tells every container of a Service whose name begins with tinylora.
OF_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


def settings_findings(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Of the variables in `environment`, which is that of this process unless told otherwise (for their names only)."""
    for name, advice in unknown_settings(os.environ if environment is None else environment):
        yield Finding("settings", "warning", f"{name} is no setting, and has no effect", advice)
    try:
        settings = Settings()
    except ValidationError as error:
        yield Finding("settings", "failure", explain(error), "docs/configuration.md says what they take")
        return
    names = sorted(f"{PREFIX}{name.upper()}" for name in settings.model_fields_set)
    yield Finding("settings", "ok", f"set: {', '.join(names)}" if names else "all have their defaults")
    yield _keys(settings)
    yield _secrets(settings)
    yield _database(settings.database_url)
    yield _files(settings.files_url)
    yield _redis(settings.redis_url)


def unknown_settings(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that look like settings and are none, each with what to do."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields] + list(OTHERS)
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name.upper() in known or name.startswith(OF_TESTS):
            continue
        if OF_KUBERNETES.search(name):
            continue
        meant = difflib.get_close_matches(name, known, n=1)
        yield name, f"did you mean {meant[0]}?" if meant else "docs/configuration.md lists those there are"


def _keys(settings: Settings) -> Finding:
    if settings.admin_key is not None:
        return Finding("keys", "ok", "there is an admin key; every request needs a key")
    return Finding("keys", "ok", "there is no admin key, so the server is for this machine only")


def _secrets(settings: Settings) -> Finding:
    if settings.sealing_keys:
        return Finding("secrets", "ok", "those of webhooks and endpoint graders are sealed in the database")
    found = "those of webhooks and endpoint graders are in clear in the database"
    if settings.admin_key is None:
        return Finding("secrets", "ok", f"{found}, as TINYLORA_SECRETS_KEY is not set")
    return Finding("secrets", "warning", found, "set TINYLORA_SECRETS_KEY; `openssl rand -hex 32` makes a good one")


def _database(url: str) -> Finding:
    if url.startswith("sqlite:///"):
        return _sqlite(Path(url.removeprefix("sqlite:///").partition("?")[0]))
    try:
        parsed = parse_url(url)
    except DatabaseStartError as error:
        return Finding("database", "failure", str(error), "correct TINYLORA_DATABASE_URL")
    engine = sa.create_engine(parsed)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError as error:
        return Finding("database", "failure", why_unusable(parsed, error))
    finally:
        engine.dispose()
    return Finding("database", "ok", f"{described(parsed)} answers")


def _redis(url: SecretStr | None) -> Finding:
    if url is None:
        return Finding("redis", "ok", "there is none; each gateway counts quotas for itself")
    with redis.Redis.from_url(
        url.get_secret_value(), socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    ) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            advice = "until it answers each gateway counts quotas for itself; correct TINYLORA_REDIS_URL, or start it"
            return Finding("redis", "warning", f"it does not answer: {error}", advice)
    return Finding("redis", "ok", "it answers")


def _sqlite(file: Path) -> Finding:
    there = nearest_existing(file)
    if not (os.access(there, os.W_OK) if there == file else can_hold_files(there)):
        return Finding("database", "failure", f"{there} cannot be written", "see to who may, or name another file")
    try:
        if file.exists():
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        return Finding("database", "failure", f"{file}: {error}", "name another file in TINYLORA_DATABASE_URL")
    return Finding("database", "ok", f"{file}{'' if file.exists() else ', which the first start makes'}")


def _files(url: str) -> Finding:
    if "://" in url:
        return Finding(
            "files", "ok", f"{without_password(url)} (not tried: it needs credentials that the server may have)"
        )
    directory = Path(url)
    there = nearest_existing(directory)
    if not can_hold_files(there):
        return Finding("files", "failure", f"{there} cannot be written", "see to who may, or set TINYLORA_FILES_URL")
    return Finding("files", "ok", url)
