"""The Dockerfile: a linter's rules, what its context holds, and steps that can be carried out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docker.utils.build import exclude_paths

ROOT = Path(__file__).resolve().parents[2]
REPLAY = ROOT / "deploy" / "replay_image.py"
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")
]
# As somebody might leave them.
SECRETS = (
    ".env", "deploy/.env", "server/.env", "clients/python/.env.local", ".git/config", "data/tinylora.db",
    "server/tinylora.db", "server/key.pem", "adapters/tls.key", "models/weights.safetensors", "id_rsa", ".netrc",
    "deploy/chart/values.yaml", ".venv/bin/python", "clients/python/build/lib/module",
)  # fmt: skip


def hadolint() -> str:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("hadolint is not installed: make env")
    return found


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    done = subprocess.run([hadolint(), str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_runs(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd / && sudo apt-get install g++\n")
    done = subprocess.run([hadolint(), str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 1 and "DL3004" in done.stdout


def test_no_secret_gets_into_the_context(tmp_path: Path) -> None:
    kept = ("pyproject.toml", "README.md", "LICENSE", "server/launch/cli.py", "deploy/requirements-gpu.txt")
    for name in (*SECRETS, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    left = {path for path in exclude_paths(str(tmp_path), IGNORED) if (tmp_path / path).is_file()}
    assert left == set(kept)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_every_step_is_known_and_copies_what_the_context_has(target: str) -> None:
    done = subprocess.run([sys.executable, str(REPLAY), "--target", target, "--plan"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [stage["stage"] for stage in plan] == ["base", f"packages-{target}", "runtime", "wheel", target]
    assert plan[0]["from"] == "python:3.11-slim-bookworm"
    context = {path for path in exclude_paths(str(ROOT), IGNORED) if (ROOT / path).is_file()}
    copied = 0
    for stage in plan:
        for instruction, value in stage["steps"]:
            if instruction == "COPY" and not value.startswith("--from"):
                *sources, _ = value.split()
                for source in sources:
                    assert any(path == source or path.startswith(f"{source}/") for path in context), source
                    copied += 1
    assert copied == 7


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_first_process_hands_on_signals_and_is_in_the_image(target: str) -> None:
    done = subprocess.run(
        [sys.executable, str(REPLAY), "--target", target, "--plan"], capture_output=True, text=True, check=True
    )
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)}
    steps, stage = list(stages[target]["steps"]), stages[target]
    while stage["from"] in stages:
        stage = stages[stage["from"]]
        steps = [*stage["steps"], *steps]
    (entrypoint,) = [json.loads(value) for instruction, value in steps if instruction == "ENTRYPOINT"]
    assert entrypoint == ["tini", "--", "tinylora"]
    (installed,) = [value for instruction, value in steps if instruction == "RUN" and "apt-get install" in value]
    assert "tini" in installed.split()
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    # One of them is enough, and the second one complains.
    assert not any("init" in service for service in compose["services"].values())


def test_no_layer_is_given_a_secret() -> None:
    done = subprocess.run([sys.executable, str(REPLAY), "--plan"], capture_output=True, text=True, check=True)
    for stage in json.loads(done.stdout):
        for instruction, value in stage["steps"]:
            if instruction in ("ENV", "ARG"):
                assert not any(word in value for word in ("KEY", "TOKEN", "PASSWORD", "SECRET")), value
