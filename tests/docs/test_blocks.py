"""What the pages show is run as it stands there.

All blocks of a page are run in their order, in a directory of their own, against a gateway without a model. What is not
as on the page: the address, words that a reader replaces too, and programs that need a cluster, Docker or an engine
(tests/docs/dry_programs.py). The blocks of docs/recipes.md are run by tests/docs/test_recipes.py. What nothing runs is
in NOT_RUN of tests/docs/blocks.py, with the reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree

import httpx
import pytest

from adapters.factors.factors import Factors
from tests.adapters.tiny_models import save_model
from tests.clients.training import train_what_comes
from tests.docs import test_recipes
from tests.docs.blocks import NOT_RUN, RECIPES, ROOT, SHELL, Block, blocks_of, pages
from tests.docs.dry_programs import put_dry_programs
from tests.postgres import find_programs
from tests.server.support.keyed import ADMIN_KEY
from tests.server.support.training_kit import ROWS, Worker

ALL = pages()
ADDRESS = "http://localhost:8000"


@dataclass(frozen=True)
class Page:
    """A page whose blocks are run. `prints` are patterns; `leaves` are files with the bytes that they have at least."""

    path: str
    prints: tuple[str, ...] = ()
    leaves: Mapping[str, int] = field(default_factory=dict)
    has_keys: bool = False
    adapters: tuple[str, ...] = ()  # that are there before
    rows: bool = False  # whether there is a train.jsonl before


RUN = (
    Page("README.md", prints=(r"demo@1: \[0.2", r"tinylora serve"), leaves={"demo.bin": 26, "train.jsonl": 1000}),
    Page("CONTRIBUTING.md", prints=("lint-imports", "pytest", "ruff format")),
    Page("clients/python/README.md", prints=(r"acme/math@1: \[0.2", r"\nmix:", r"\ninline:", r"\nft:"), rows=True),
    Page(
        "docs/index.md",
        prints=(r"None base", r"demo demo@1: \[0.2", r"\nftjob-\w+\nft:[^\n]+\n", r"\nft:[^\n]+\nft:[^\n]+: \["),
        leaves={"demo.bin": 26},
    ),
    Page(
        "docs/serving.md",
        prints=(r"\ncompleted base after 1 items\n+after 1 items ", r'"status": ?"completed"'),
        adapters=("demo", "polite", "brief"),
    ),
    Page("docs/training.md", prints=(r"1\.0\n",)),
    Page(
        "docs/batches.md",
        prints=("completed 20 of 20", "question-19 base"),
        leaves={"questions.jsonl": 2000, "answers.jsonl": 2000},
    ),
    Page("docs/tenants.md", prints=(r"\nsk-tl-\w{20,}\n", r"tinylora serve +--host 0\.0\.0\.0"), has_keys=True),
    Page("docs/migration.md", prints=("validating_files|queued|running|succeeded", "mix|polite", r"1\.0\n$")),
    Page("docs/scale.md", prints=(r"requirements-ray\.txt", "Usage: tinylora worker")),
    Page(
        "docs/operations.md",
        prints=(r'{"status":"ok"}', r"\nsk-tl-\w{20,}\n[^$]*\nsk-tl-\w{20,}\n", "secret/tinylora", "kind: Deployment"),
        leaves={"backup.db": 100_000, "adapters.ndjson": 50, "deploy/.env": 400, "tinylora.dump": 10_000},
        has_keys=True,
        adapters=("demo",),
    ),
)
# What readers replace, on one page or on all, to a pattern of what was printed before.
FROM_OUTPUT = {("docs/index.md", r"\bJOB\b"): r"\n(ftjob-\w+)", ("docs/index.md", r"\bADAPTER\b"): r"\n(ft:\S+)"}


@dataclass
class Place:
    """Where blocks are run."""

    url: str
    directory: Path
    programs: Path
    given: Mapping[str, str]  # a reader's words to what stands for them here
    printed: str = ""

    def run(self, block: Block) -> None:
        """Add what it prints to `printed`. AssertionError where it fails."""
        if block.language == "json":
            return self.send(block)
        text = block.text.replace(ADDRESS, self.url)
        for words, value in self.given.items():
            text = text.replace(words, value)
        for (page, word), pattern in FROM_OUTPUT.items():
            if page == block.page and re.search(word, text):
                text = re.sub(word, re.findall(pattern, self.printed)[-1], text)
        text = re.sub(r"curl -s\b", "curl -sS --fail-with-body", text)
        program = ["bash", "-euo", "pipefail", "-c"] if block.language in SHELL else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, text], cwd=self.directory, env=self.environment(), input="Hello\n", capture_output=True,
            text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.page}, line {block.line}\n{text}\n{done.stdout}\n{done.stderr}"
        self.printed += f"\n{done.stdout}"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TINYLORA_")}
        return kept | {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{find_programs()}:{kept['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}",
            "TINYLORA_URL": self.url,
            "TINYLORA_ADMIN_KEY": ADMIN_KEY,
        }

    def send(self, block: Block) -> None:
        """What JSON shows: the field `adapter` of a request in each line, or the rows of a training file."""
        with httpx.Client(base_url=self.url, timeout=60) as http:
            if not block.text.startswith("{"):
                for line in block.text.splitlines():
                    asked = json.loads(f'{{{line}, "messages": [{{"role": "user", "content": "Hello"}}]}}')
                    answer = http.post("/v1/chat/completions", json=asked)
                    assert answer.status_code == 200, answer.text
                    assert answer.headers["x-tinylora-adapter"] not in ("none", ""), line
                return
            files = {"file": ("rows.jsonl", block.text.encode())}
            file = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).raise_for_status().json()
            query = {"method": "reinforcement", "only": "errors"}
            wrong = http.get(f"/v1/files/{file['id']}/lines", params=query).raise_for_status().json()
            assert wrong["data"] == [], wrong


@contextmanager
def training(url: str, factors: Factors) -> Iterator[None]:
    """Meanwhile a worker finishes all jobs that are made there."""
    stop = threading.Event()
    with httpx.Client(base_url=url, timeout=60) as http:
        thread = threading.Thread(target=train_what_comes, args=(Worker(http, factors.digest), stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.path)
def test_what_a_page_shows_runs_as_it_stands_there(
    page: Page, request: pytest.FixtureRequest, factors: Factors, tmp_path: Path
) -> None:
    url = request.getfixturevalue("keyed_url" if page.has_keys else "open_url")
    directory = tmp_path / "here"
    directory.mkdir()
    given = {"<this repository>": "https://git.example/tinylora-serve.git"}
    if page.path == "docs/operations.md":
        copytree(ROOT / "deploy", directory / "deploy")
        (directory / "data").symlink_to(tmp_path / "data")
        given["postgresql://tinylora@HOST/tinylora"] = request.getfixturevalue("postgres_url")
        given["=CLASS"] = "=shared"  # names of Kubernetes have no capitals
        given["tinylora factors MODEL"] = f"tinylora factors {save_model(tmp_path / 'tiny')}"
    if page.rows:
        (directory / "train.jsonl").write_bytes(ROWS)
    signed = {"authorization": f"Bearer {ADMIN_KEY}"} if page.has_keys else {}
    for name in page.adapters:
        asked = {"name": name, "vector": [0.2] * 13}
        httpx.post(f"{url}/v1/adapters", json=asked, headers=signed, timeout=60).raise_for_status()
    place = Place(url, directory, put_dry_programs(tmp_path / "programs"), given)
    with nullcontext() if page.has_keys else training(url, factors):
        for block in blocks_of(page.path):
            if not block.is_only_shown:
                place.run(block)
    for pattern in page.prints:
        assert re.search(pattern, place.printed), f"{pattern}\n{place.printed}"
    for name, size in page.leaves.items():
        assert (directory / name).stat().st_size >= size, name


def test_every_block_is_run() -> None:
    """A new page, or a block of a language that nothing here knows, has to get what runs it, or a reason in NOT_RUN."""
    recipes = set(re.findall(r'snippet\("([^"]+)", "(\w+)"\)', Path(test_recipes.__file__).read_text()))
    run = {page.path for page in RUN}
    missed = [
        f"{block.page}, line {block.line}: no test runs this\n{block.text}"
        for page in ALL
        for block in blocks_of(page)
        if not block.is_only_shown
        and not (page in run and block.language in (*SHELL, "python", "json"))
        and not (page == RECIPES and (block.heading, block.language) in recipes)
    ]
    assert not missed, "\n".join(missed)
    assert run <= set(ALL)
    used = {
        (page, start)
        for page, start in NOT_RUN
        if any(block.text.startswith(start) for block in blocks_of(page))
    }  # fmt: skip
    assert used == NOT_RUN.keys(), "a reason without a block"


def test_the_environment_that_training_shows_can_be_played_to_its_end() -> None:
    (text,) = [block.text for block in blocks_of("docs/training.md") if "def answer(asked)" in block.text]
    scope: dict[str, Callable[[object], dict[str, object]]] = {}
    exec(text, scope)
    for number in range(1, 21):
        turn = {"seed": 5, "turn": number, "turns_left": 20 - number, "messages": [{"content": f"It is {number}."}]}
        said = scope["answer"](turn)
        if "done" in said:
            assert said == {"done": True, "reward": 1 / number}
            break
        assert said == {"messages": [{"role": "user", "content": "It is higher."}]}
    else:
        pytest.fail("no number was the right one")
