"""Programs for the pages' commands that cannot be carried out where tests run: each does as much of it as can be.

| program | what is done instead |
|---|---|
| git clone | makes the directory: what would be in it is this repository |
| make | says what it would do (`--dry-run`) |
| helm install | renders and checks all manifests (`--dry-run=client`) |
| helm test | looks whether the chart has a test |
| kubectl | makes the object, and sends it nowhere (`--dry-run=client`) |
| tinylora serve, tinylora worker | its options are read, and nothing is started |
| docker compose | its files exist, and have the variables that they ask for; tests/deploy/test_compose.py reads them |
| ray | its first word is read; tests/server/training/worker/test_ray_workers.py starts clusters where there is Ray |

Any other program is the real one, or the command fails.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.deploy.chart import helm
from tests.docs.blocks import ROOT

COMPOSE = r"""
[ "$1" = compose ] || { echo "docker $1 is not known here" >&2; exit 2; }
shift
files=()
while [ "$1" = --file ]; do files+=("$2"); shift 2; done
[ "$*" = up ] && [ ${#files[@]} -gt 0 ]
for name in $(grep -ohP '\$\{\K\w+(?=:\?)' "${files[@]}"); do
  grep -qE "^$name=.{20,}" deploy/.env || { echo "deploy/.env has no $name" >&2; exit 1; }
done
"""


def put_dry_programs(directory: Path) -> Path:
    """Write them into `directory`, which is to come first in PATH; its path."""
    beside = Path(sys.executable).parent
    kubectl = shutil.which("kubectl", path=str(beside)) or shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: make env")
    programs = {
        "git": '[ "$1" = clone ] && mkdir "$(basename "$2" .git)"',
        "make": f'unset MAKEFLAGS MAKELEVEL\nexec {shutil.which("make")} --dry-run --directory {ROOT} "$@"',
        "helm": f"""
case "$1" in
  install) exec {helm()} "$@" --dry-run=client ;;
  test) {helm()} template "$2" deploy/chart | grep -q 'helm.sh/hook: test' ;;
  *) echo "helm $1 is not known here" >&2; exit 2 ;;
esac""",
        "kubectl": f'export KUBECONFIG=/dev/null\nexec {kubectl} "$@" --dry-run=client --output=name',
        "tinylora": f"""
case "$1" in
  serve | worker) exec {beside / "tinylora"} "$@" --help ;;
  *) exec {beside / "tinylora"} "$@" ;;
esac""",
        "docker": COMPOSE,
        "ray": '[ "$1" = start ]',
    }
    directory.mkdir()
    for name, text in programs.items():
        (directory / name).write_text(f"#!/bin/bash\nset -eu\n{text}\n")
        (directory / name).chmod(0o755)
    return directory
