"""The client as its users get it: built as a wheel, installed from the registries into a new environment, and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import httpx
import pytest

from adapters.factors.factors import Factors
from tests.clients.python import fresh_program
from tests.clients.training import train_what_comes
from tests.server.support.fake_engine import MODULES
from tests.server.support.training_kit import ROWS, Worker

CLIENT = Path(__file__).resolve().parents[3] / "clients/python"
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def run(*command: object, cwd: Path) -> str:
    # Nothing of this repository may be found by accident.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    # Building writes into the source.
    source = shutil.copytree(CLIENT, directory / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    run(sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", directory, source, cwd=directory)
    (wheel,) = directory.glob("*.whl")
    return wheel


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"tinylora_client/{path.name}" for path in (CLIENT / "tinylora_client").glob("*.*")}


@pytest.mark.slow
def test_upload_chat_stream_and_a_job_from_a_new_environment(
    wheel: Path, tmp_path: Path, base_url: str, factors: Factors
) -> None:
    python = tmp_path / "environment/bin/python"
    run(oldest_python(), "-m", "venv", tmp_path / "environment", cwd=tmp_path)
    run(python, *PIP, "install", "--no-compile", wheel, cwd=tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(ROWS)
    program = shutil.copy(fresh_program.__file__, tmp_path)

    with httpx.Client(base_url=base_url) as http:
        worker = Worker(http, factors.digest)
        stop = threading.Event()
        thread = threading.Thread(target=train_what_comes, args=(worker, stop))
        thread.start()
        try:
            said = run(python, program, base_url, rows, cwd=tmp_path)
        finally:
            stop.set()
            thread.join()
    assert said.strip().endswith(f"{[0.25] * len(MODULES)}")


def oldest_python() -> str:
    """The oldest that the client supports and this machine has."""
    for minor in range(10, 15):
        found = shutil.which(f"python3.{minor}")
        # A shim of a version manager may be there without the version.
        if found and subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return found
    return sys.executable
