"""What the README and the tables of the pages state as fact about this repository, against the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from adapters.factors.default_recipe import GROUPS_OF_SMALL
from adapters.vector.recipe import Recipe
from server.core.settings import Settings
from server.launch.embedded_model import MODEL_NAME, MODELS_DIR_VARIABLE
from server.training.jobs.config import EvolutionConfig, ReinforcementConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONFIGURATION, TRAINING = ((ROOT / "docs" / f"{page}.md").read_text() for page in ("configuration", "training"))


def test_the_configuration_table_lists_every_setting_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(TINYLORA_\w+)` \| `(.*?)` \|", CONFIGURATION, flags=re.MULTILINE))
    del table[MODELS_DIR_VARIABLE]
    assert table == {f"TINYLORA_{name.upper()}": str(field.default) for name, field in Settings.model_fields.items()}


def test_the_settings_of_a_job_are_listed_with_their_defaults() -> None:
    settings = TRAINING.split("## Settings")[1].split("\n## ")[0]
    table = dict(re.findall(r"^\| `([a-z_]+)` \| [RSE ]+ \| `?([^|`]*?)`? \|", settings, flags=re.MULTILINE))
    # Where both have a setting, the row names the default of reinforcement.
    fields = {**EvolutionConfig.model_fields, **ReinforcementConfig.model_fields}
    # Set by OpenAI's `method` and by `model`.
    defaults = {name: str(field.default) for name, field in fields.items() if name not in ("method", "init")}
    assert table == defaults | {"recipe": f"{Recipe().num_parameters} or {GROUPS_OF_SMALL} numbers"}


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    code = "\n".join(re.findall(r"`[^`]+`|```.*?```", README, flags=re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", code)) <= targets


def test_the_example_bytes_are_26_and_its_model_is_the_embedded_one() -> None:
    (unit,) = re.findall(r'bytes\.fromhex\("([0-9a-f]+)" \* 13\)', README)
    assert len(bytes.fromhex(unit * 13)) == 26
    assert README.count(f'"{MODEL_NAME}"') == 4


def test_the_license_it_names_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"## License\n\n{project['license']}." in README
