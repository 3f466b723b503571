"""What the pages name exists, what they say of tables can be looked up, and all of it can be read where it is built."""

from __future__ import annotations

import ast
import base64
import dataclasses
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import markdown
import pytest
from trl import GRPOConfig
from typer.testing import CliRunner

from server.core.settings import Settings
from server.launch.cli import cli
from server.launch.embedded_model import MODELS_DIR_VARIABLE
from server.training.graders.environment import parse_environment
from server.training.jobs.config import CONFIGS, ReinforcementConfig
from server.training.jobs.options import MethodParam
from tests.deploy.monitoring import rules
from tests.docs.blocks import ROOT, pages

DOCS = ROOT / "docs"
# But for what is of all versions.
TEXTS = {page: (ROOT / page).read_text() for page in pages() if page != "CHANGELOG.md"}
GENERATED = "api.md"  # by `make docs`
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")


def test_commands_within_sentences_are_ones_that_their_programs_take() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    names = set()
    for page, text in TEXTS.items():
        for inline in INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            program, *words = re.split(r"\s+", inline.strip())
            if program in ("tinylora", ".venv/bin/tinylora") and words:
                # Options are looked at before help is given, and nothing else is.
                done = CliRunner().invoke(cli, [*shlex.split(" ".join(words)), "--help"])
                assert done.exit_code == 0, f"{page}: {inline}: {done.output}"
                names.add(words[0])
            elif program == "make" and words:
                assert words[0] in targets, f"{page}: {inline}"
            elif program == "python" and words[:1] == ["-m"]:
                assert importlib.util.find_spec(words[1]), f"{page}: {inline}"
        assert set(re.findall(r"tinylora-serve\[(\w+)\]", text)) <= extras.keys(), page
    assert len(names) > 15


def test_settings_and_files_exist() -> None:
    text = "\n".join(TEXTS.values())
    settings = {f"TINYLORA_{name.upper()}" for name in Settings.model_fields} | {MODELS_DIR_VARIABLE}
    of_clients = {"TINYLORA_URL", "TINYLORA_API_KEY", "TINYLORA_TENANT"}
    assert set(re.findall(r"TINYLORA_(?!TEST_)[A-Z_]+", text)) <= settings | of_clients
    for path in re.findall(r"`((?:deploy|clients|docs|server)/[\w/.-]+)`", text):
        assert (ROOT / path).exists() or path in ("deploy/.env", "deploy/settings.env"), path


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    sections = TEXTS["docs/operations.md"].split("## Alerts, by symptom")[1]
    assert re.findall(r"^### (\w+)$", sections, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_settings_of_trl_and_ours_are_named_as_they_are() -> None:
    table = TEXTS["docs/migration.md"].split("| `GRPOConfig` | setting |")[1].split("\n\n")[0]
    pairs = re.findall(r"^\| `(\w+)` \| `(\w+)`", table, re.MULTILINE)
    assert len(pairs) > 10
    theirs, ours = zip(*pairs, strict=True)
    assert set(theirs) <= {field.name for field in dataclasses.fields(GRPOConfig)}
    assert set(ours) <= ReinforcementConfig.model_fields.keys()


def test_the_table_of_settings_says_which_methods_have_them() -> None:
    table = TEXTS["docs/training.md"].split("| In `tinylora` | For |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([RSE ]+) \|", table, re.MULTILINE))
    of_methods = {method[0].upper(): kind.model_fields.keys() - {"method", "init"} for method, kind in CONFIGS.items()}
    assert rows.keys() == set().union(*of_methods.values())
    assert {name: {kind for kind, names in of_methods.items() if name in names} for name in rows} == {
        name: set(kinds.split()) for name, kinds in rows.items()
    }


def test_the_method_with_an_environment_is_one_that_a_job_takes() -> None:
    lines = re.search(r"^# method: (\{\n(?:#.*\n)+)", TEXTS["docs/training.md"], re.MULTILINE)
    assert lines is not None
    method = MethodParam.model_validate(ast.literal_eval(lines[1].replace("#", "").strip()))
    assert method.reinforcement is not None and method.reinforcement.environment is not None
    secret = {"secret": f"whsec_{base64.b64encode(bytes(32)).decode()}"}
    assert parse_environment({**method.reinforcement.environment, **secret}, "environment").max_turns == 5


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_lists_tables_and_blocks_become_such_in_the_pages_that_are_built(page: Path) -> None:
    """`make docs` reads Markdown as Python-Markdown does: a table or a block that is indented by two stays text."""
    html = markdown.markdown(page.read_text(), extensions=["tables", "fenced_code"])
    left = re.findall(
        r"^(?:<p>)?\s*(?:- |\||```).*|^.*\|\s*-{2,}.*",
        re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL),
        re.MULTILINE,
    )
    assert left == [], left


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists() or target == GENERATED, target
    assert page.name in (DOCS / "mkdocs.yaml").read_text()
