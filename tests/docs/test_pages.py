"""The pages of docs/: what they show is run as it stands there, and what they name exists.

Blocks of `sh` and `python` are run in their order, in a directory of their own, against a gateway without a model; only
the address is another. What takes a cluster, an engine or hours is in blocks of `console`; helm's are run dry.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from trl import GRPOConfig

from server.core.settings import Settings
from server.launch.cli import cli
from server.launch.embedded_model import MODELS_DIR_VARIABLE
from server.training.jobs.config import ReinforcementConfig
from tests.deploy.chart import helm
from tests.deploy.monitoring import rules
from tests.server.support.keyed import ADMIN_KEY

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = (
    "index.md", "concepts.md", "serving.md", "console.md", "training.md", "tenants.md", "configuration.md",
    "operations.md", "security.md", "migration.md", "scale.md", "recipes.md", "clients.md", "batches.md",
)  # fmt: skip
TEXTS = {name: (DOCS / name).read_text() for name in WRITTEN}
BLOCK = re.compile(r"^```(sh|python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://localhost:8000"
GENERATED = "api.md"  # by `make docs`


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    return [(language, text) for language, text in BLOCK.findall(TEXTS[page]) if language in languages]


def run(shown: Sequence[tuple[str, str]], url: str, directory: Path) -> str:
    """Run the blocks; everything that they print."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("TINYLORA_")}
    environment = given | {
        "PATH": f"{Path(sys.executable).parent}:{given['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}",
        "TINYLORA_URL": url,
        "TINYLORA_ADMIN_KEY": ADMIN_KEY,
    }
    printed = []
    for language, text in shown:
        program = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        text = re.sub(r"curl -s\b", "curl -sS --fail-with-body", text.replace(ADDRESS, url))
        done = subprocess.run(
            [*program, text], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    return "".join(printed)


def test_the_quickstart(open_url: str, tmp_path: Path) -> None:
    printed = run(blocks("index.md", "sh", "python"), open_url, tmp_path)
    assert "demo@1" in printed  # the answer of the fake engine says what it was given
    assert "None base" in printed
    assert re.search(r"^ftjob-\w+$", printed, re.MULTILINE)
    assert (tmp_path / "demo.bin").stat().st_size == 26


def test_serving(open_url: str, tmp_path: Path) -> None:
    httpx.post(f"{open_url}/v1/adapters", json={"name": "demo", "vector": [0.2] * 13}).raise_for_status()
    printed = run(blocks("serving.md", "sh", "python"), open_url, tmp_path)
    said, listing = printed.split("{", 1)
    assert said == "completed base after 1 items\nafter 1 items "
    assert {one["status"] for one in json.loads("{" + listing)["data"]} == {"completed"}


def test_training(open_url: str, tmp_path: Path) -> None:
    assert run(blocks("training.md", "sh", "python"), open_url, tmp_path) == "1.0\n"


def test_batches(open_url: str, tmp_path: Path) -> None:
    printed = run(blocks("batches.md", "sh", "python"), open_url, tmp_path)
    assert "completed 20 of 20" in printed and "question-19 base" in printed
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 20


def test_tenants(keyed_url: str, tmp_path: Path) -> None:
    printed = run(blocks("tenants.md", "sh", "python"), keyed_url, tmp_path)
    assert re.search(r"^sk-tl-\w{20,}$", printed, re.MULTILINE)


def test_migration(open_url: str, tmp_path: Path) -> None:
    printed = run(blocks("migration.md", "sh", "python"), open_url, tmp_path)
    assert "validating_files" in printed or "queued" in printed
    assert "mix" in printed or "polite" in printed
    assert printed.rstrip().endswith("1.0")


def test_operations(keyed_url: str, tmp_path: Path) -> None:
    printed = run(blocks("operations.md", "sh", "python"), keyed_url, tmp_path)
    assert '{"status":"ok"}' in printed
    assert len(set(re.findall(r"^(sk-tl-\w{20,})$", printed, re.MULTILINE))) == 2
    assert (tmp_path / "backup.db").stat().st_size > 100_000
    assert (tmp_path / "adapters.ndjson").exists()


def test_the_readme(open_url: str, tmp_path: Path) -> None:
    # What starts a server is left out, and what asks for a key.
    shown = [
        (language, text)
        for language, text in BLOCK.findall((ROOT / "README.md").read_text())
        if language == "python" or (language == "sh" and ADDRESS in text)
    ]
    assert {language for language, _ in shown} == {"sh", "python"}
    rows = [{"messages": [{"role": "user", "content": f"{a} + 4?"}], "answer": str(a + 4)} for a in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "demo@1" in run(shown, open_url, tmp_path)


def test_helms_commands_are_ones_that_helm_takes() -> None:
    commands = [
        line
        for page in WRITTEN
        for _, text in blocks(page, "console")
        for line in text.splitlines()
        if line.startswith("helm install")
    ]
    assert len(commands) == 4
    for command in commands:
        words = [helm(), *shlex.split(command, comments=True)[1:], "--dry-run=client"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_commands_of_tinylora_exist() -> None:
    known = {command.name or command.callback.__name__ for command in cli.registered_commands if command.callback}
    known |= {group.name for group in cli.registered_groups if group.name}
    named = {name for text in TEXTS.values() for name in re.findall(r"(?:^|`|\()tinylora ([a-z]+)", text, re.MULTILINE)}
    assert len(named) > 6 and named <= known


def test_settings_and_targets_and_files_exist() -> None:
    text = "\n".join(TEXTS.values())
    settings = {f"TINYLORA_{name.upper()}" for name in Settings.model_fields} | {MODELS_DIR_VARIABLE}
    of_clients = {"TINYLORA_URL", "TINYLORA_API_KEY"}
    assert set(re.findall(r"TINYLORA_[A-Z_]+", text)) <= settings | of_clients
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for path in re.findall(r"`((?:deploy|clients|docs|server)/[\w/.-]+)`", text):
        assert (ROOT / path).exists() or path == "deploy/.env", path


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    sections = TEXTS["operations.md"].split("## Alerts, by symptom")[1]
    assert re.findall(r"^### (\w+)$", sections, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_settings_of_trl_and_ours_are_named_as_they_are() -> None:
    table = TEXTS["migration.md"].split("| `GRPOConfig` | setting |")[1].split("\n\n")[0]
    pairs = re.findall(r"^\| `(\w+)` \| `(\w+)`", table, re.MULTILINE)
    assert len(pairs) > 10
    theirs, ours = zip(*pairs, strict=True)
    assert set(theirs) <= {field.name for field in dataclasses.fields(GRPOConfig)}
    assert set(ours) <= ReinforcementConfig.model_fields.keys()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists() or target == GENERATED, target
    assert page.name in (DOCS / "mkdocs.yaml").read_text()
