"""What a release is made of: one version everywhere, valid workflows, and the API document as the code has it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.support.openapi_document import openapi_document

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text()
VERSIONED = (
    "pyproject.toml", "clients/python/pyproject.toml", "deploy/chart/Chart.yaml", "deploy/compose.yaml",
    "deploy/compose.gpu.yaml", "Dockerfile",
)  # fmt: skip


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def versions(root: Path) -> set[str]:
    """All versions of the project that the files name."""
    found = re.findall(r"(?:^version = \"|ersion: |tinylora-serve:)(\d[\w.]*?)(?:\"|-[cg]pu|$)", "\n".join(
        (root / name).read_text() for name in VERSIONED
    ), re.MULTILINE)  # fmt: skip
    assert len(found) == 9
    return set(found)


def test_all_files_have_the_version_of_the_package() -> None:
    assert versions(ROOT) == {version()}
    # The command line is made of the client, and both are published together.
    assert f'"tinylora-client=={version()}"' in (ROOT / "pyproject.toml").read_text()


def test_one_command_changes_all_of_them(tmp_path: Path) -> None:
    for name in (*VERSIONED, "Makefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "deploy/requirements-cpu.txt").touch()
    subprocess.run(["make", "--silent", "version", "VERSION=7.8.9"], cwd=tmp_path, check=True, capture_output=True)
    assert versions(tmp_path) == {"7.8.9"}
    # Nothing else that looks like a version.
    before = (ROOT / "pyproject.toml").read_text().replace(f'version = "{version()}"', 'version = "7.8.9"', 1)
    before = before.replace(f"tinylora-client=={version()}", "tinylora-client==7.8.9")
    assert (tmp_path / "pyproject.toml").read_text() == before


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_the_api_document_is_the_codes() -> None:
    committed: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
    current = json.loads(json.dumps(openapi_document()))
    changed = {path for path in committed["paths"].keys() | current["paths"].keys()
               if committed["paths"].get(path) != current["paths"].get(path)}  # fmt: skip
    assert not changed, "docs/openapi.json is of an earlier version of these paths; `make openapi` writes it"
    assert committed == current, "docs/openapi.json is of an earlier version; `make openapi` writes it"


def test_the_api_document_has_the_version() -> None:
    assert json.loads((ROOT / "docs" / "openapi.json").read_text())["info"]["version"] == version()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_valid(workflow: Path) -> None:
    found = shutil.which("actionlint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("actionlint is not installed: make env")
    done = subprocess.run([found, "-no-color", str(workflow)], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")


def test_ci_runs_what_a_change_must_pass() -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]["run"]["steps"]
    assert {"run": "bash .ci/run"} in steps
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)) <= targets


def test_a_release_publishes_both_wheels_both_images_and_the_chart() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())["jobs"]
    text = yaml.safe_dump(jobs)
    assert "python -m build --outdir dist . && python -m build --outdir dist clients/python" in text
    image = next(step for step in jobs["images"]["steps"] if step.get("uses", "").startswith("docker/build-push"))
    assert jobs["images"]["strategy"]["matrix"]["device"] == ["cpu", "gpu"]
    assert (image["with"]["sbom"], image["with"]["target"]) == (True, "${{ matrix.device }}")
    assert re.search(r"^  repository: tinylora-serve$", (ROOT / "deploy/chart/values.yaml").read_text(), re.MULTILINE)
    assert "helm push" in text
    assert {"run": "bash .ci/run"} in jobs["tests"]["steps"]
    assert {"tests", "images"} < set(jobs["pypi"]["needs"]), "what cannot be taken back comes last"
    # Whoever may write says so by job, and nobody by default.
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
