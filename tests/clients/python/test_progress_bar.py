"""The bar of `wait` in a notebook, whose widget has a total of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

# By this module of a notebook's kernel tqdm knows that it is in one, and shows a widget.
IN_A_NOTEBOOK = """
import ipykernel.zmqshell
from tinylora_client.progress_bar import ProgressBar
with ProgressBar("job", True) as bar:
    for done, total in ((0, 0), (2, 4), (3, 8)):
        bar.show_count(done, total, "running")
        widget = bar._bar.container.children[1]
        print(widget.value, "of", widget.max)
"""


def test_a_notebooks_bar_moves_when_the_total_becomes_known_and_when_it_changes() -> None:
    for needed in ("ipykernel", "ipywidgets"):
        pytest.importorskip(needed)
    shown = subprocess.run([sys.executable, "-c", IN_A_NOTEBOOK], capture_output=True, text=True, check=True).stdout
    assert [line for line in shown.splitlines() if " of " in line] == ["0.0 of 1.0", "2.0 of 4.0", "3.0 of 8.0"]
