"""Every block of code in the pages of this repository, and which are shown to people only, and why."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "console")
RECIPES = "docs/recipes.md"

# The page, and the beginning of the block, to the reason why nothing runs it. What runs, but for a part of it: see
# tests/docs/dry_programs.py.
NOT_RUN = {
    ("docs/architecture.md", "clients/"): "a picture",
    ("docs/concepts.md", "of the base model, once"): "a picture",
    ("docs/concepts.md", "clients ──┐"): "a picture",
    ("docs/scale.md", "(EngineCore pid="): "what one run printed",
    ("clients/python/README.md", "pip install tinylora-client"): (
        "the package index has it once it is released; tests/clients/python/test_wheel.py installs the wheel"
    ),
}


@dataclass(frozen=True)
class Block:
    """What is between two fences. `text` is without the indentation of the fences."""

    page: str
    heading: str
    line: int
    language: str
    text: str

    @property
    def is_only_shown(self) -> bool:
        """Whether NOT_RUN says why nothing runs it."""
        return any(page == self.page and self.text.startswith(start) for page, start in NOT_RUN)


def pages() -> list[str]:
    """All pages of the repository, by their paths in it."""
    found = [
        *ROOT.glob("*.md"),
        *(path for room in ("clients", "deploy", "docs") for path in (ROOT / room).rglob("*.md")),
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page in their order."""
    text = (ROOT / page).read_text()
    found = []
    for match in FENCE.finditer(text):
        headings = re.findall(r"^##? (.*)$", FENCE.sub("", text[: match.start()]), re.MULTILINE)
        found.append(
            Block(
                page=page,
                heading=headings[-1] if headings else "",
                line=text.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text=textwrap.dedent(match["text"]),
            )
        )
    # A fence that is not understood would hide a block.
    assert len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)) == 2 * len(found), page
    return found
