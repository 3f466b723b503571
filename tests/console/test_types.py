"""The console's modules against TypeScript: names, arguments and the types that their comments give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.third_party_clients.clients import NODE_MODULES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def checked(directory: Path) -> subprocess.CompletedProcess[str]:
    """What the compiler says of the project in `directory`."""
    compiler = NODE_MODULES / ".bin" / "tsc"
    if not compiler.exists() or shutil.which("node") is None:
        pytest.skip("TypeScript is not installed: make third-party-clients")
    return subprocess.run(
        [str(compiler), "--project", str(directory), "--pretty", "false"], capture_output=True, text=True
    )


def test_the_modules_have_no_errors_of_types() -> None:
    done = checked(HERE)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_module_is_looked_at() -> None:
    modules = sorted((ROOT / "server/api/console/js").rglob("*.js"))
    assert len(modules) > 40
    assert all(module.read_text().startswith("// @ts-check\n") for module in modules)


def test_the_compiler_finds_mistakes(tmp_path: Path) -> None:
    """In a copy of them: a name that is not imported, an argument that is forgotten, a field that is not there."""
    shutil.copytree(ROOT / "server/api/console/js", tmp_path / "server/api/console/js")
    (tmp_path / "tests/console").mkdir(parents=True)
    shutil.copy(HERE / "tsconfig.json", tmp_path / "tests/console")
    module = tmp_path / "server/api/console/js/wrong_on_purpose.js"
    module.write_text(
        'import { table } from "./dom.js";\n\nexport const wrong = [replace(), table(), document.boddy];\n'
    )
    done = checked(tmp_path / "tests/console")
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if "wrong_on_purpose.js" in line]
    assert ["TS2304" in said[0], "TS2554" in said[1], "boddy" in said[2]] == [True] * 3, done.stdout
