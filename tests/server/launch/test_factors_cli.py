"""`tinylora factors`: for people, and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from adapters.factors.factors import open_factors
from server.launch.cli import cli
from tests.adapters.tiny_models import save_model


def test_path_and_digest_are_told_to_people_and_to_programs(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "tiny"))
    path, digest = CliRunner().invoke(cli, ["factors", model]).stdout.split()
    told = json.loads(CliRunner().invoke(cli, ["factors", model, "--json"]).stdout)
    built = open_factors(Path(path))
    assert (told["path"], told["digest"]) == (path, digest) == (str(built.path), built.digest)
    assert (told["kind"], told["rank"], told["modules"]) == (built.kind, built.rank, len(built.modules))
    assert told["base_model"] == built.base_model


def test_they_are_those_of_a_server_with_the_same_settings(tmp_path: Path) -> None:
    asked = ["factors", str(save_model(tmp_path / "tiny")), "--json"]
    settings = {"TINYLORA_FACTORS_RANK": "1", "TINYLORA_FACTORS_KIND": "random"}
    told = json.loads(CliRunner().invoke(cli, asked, env=settings).stdout)
    assert (told["kind"], told["rank"]) == ("random", 1)
    told = json.loads(CliRunner().invoke(cli, [*asked, "--rank", "2"], env=settings).stdout)
    assert (told["kind"], told["rank"]) == ("random", 2)
