"""Where a docstring, a comment or a page names a file or module of this project, there is one."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("adapters", "benchmarks", "clients", "deploy", "server", "tests")
SOURCES = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [
    path.relative_to(ROOT) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
]
# Of other projects, or made by a test.
OTHER_FILES = {
    "math_verify.py", "system_utils.py", "multiproc_executor.py", "core.py", "bad_words.py", "logit_bias.py",
    "logprob.py", "parent.py",
}  # fmt: skip
NO_MODULES = {"clients.md", "adapters.id", "adapters.name", "adapters.ndjson", "server.log", "server.txt"}

FILE = re.compile(r"(?<![\w./-])([\w/]+\.py)\b")
MODULE = re.compile(r"(?<![\w./-])((?:adapters|clients|server)(?:\.[a-z_0-9]+)+)")


def mentions(pattern: re.Pattern[str]) -> list[tuple[Path, str]]:
    """What matches in pages, and in comments and strings of the code; not in f-strings, which are code themselves."""
    texts = [(page, (ROOT / page).read_text()) for page in PAGES]
    for source in SOURCES:
        with (ROOT / source).open("rb") as file:
            kept = (
                token for token in tokenize.tokenize(file.readline) if token.type in (tokenize.COMMENT, tokenize.STRING)
            )
            texts.append((source, "\n".join(token.string for token in kept if not token.string.startswith("f"))))
    return [(where, name) for where, text in texts for name in pattern.findall(text)]


def test_every_file_that_is_named_exists() -> None:
    tails = {"/".join(path.parts[start:]) for path in SOURCES for start in range(len(path.parts))}
    missing = {
        f"{where}: {name}" for where, name in mentions(FILE) if name not in tails and Path(name).name not in OTHER_FILES
    }
    assert not missing, "\n".join(sorted(missing))


def test_every_module_that_is_named_exists() -> None:
    modules = {".".join(path.with_suffix("").parts) for path in SOURCES}
    known = modules | {module.removesuffix(".__init__") for module in modules} | NO_MODULES
    missing = {
        f"{where}: {name}"
        for where, name in mentions(MODULE)
        # A room, a module, or up to two names within a module.
        if name not in known and not modules & {name.rsplit(".", 1)[0], name.rsplit(".", 2)[0]}
    }
    assert not missing, "\n".join(sorted(missing))
