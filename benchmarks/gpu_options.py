"""What all parts of the benchmark of a card are told, and how they pass it on to each other's processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from benchmarks.dummy_model import Shape
from benchmarks.results import Results

ENGINE_TESTS = Path(__file__).parents[1] / "tests" / "engine"
# Those that say most, because the time may not be enough for all.
FIRST_TESTS = ("test_answers.py", "test_sixteen_bits.py", "test_speculative.py")


def engine_tests() -> tuple[str, ...]:
    """All files of them, FIRST_TESTS first. Not their directory, among whose files pytest would sort those again."""
    names = sorted(path.name for path in ENGINE_TESTS.glob("test_*.py"))
    return tuple(str(ENGINE_TESTS / name) for name in [*FIRST_TESTS, *(one for one in names if one not in FIRST_TESTS)])


@dataclass(frozen=True, slots=True)
class Options:
    """directory: of the results, logs and the model without weights.

    engines: names as in gpu_engines.VARIANTS; None: all of them. prefill: requests and tokens of each.
    loras: different adapters of vLLM's multi-LoRA, for which it needs slots; with ours every request has its own.
    update: prompts, completions of each, and tokens of both, in an update of the trainer.
    job: steps, prompts in a step and completions of each, of the job on the embedded model.
    eager: without compilation, which a CPU does not need to show that everything runs.
    """

    directory: Path
    shape: Shape = field(default_factory=Shape)
    engines: Sequence[str] | None = None
    batches: Sequence[int] = (1, 8, 32, 128, 256)
    tokens: int = 64
    prompt_tokens: int = 32
    prefill: tuple[int, int] = (32, 1024)
    first_tokens: int = 10
    rounds: int = 3
    loras: int = 32
    eager: bool = False
    test_arguments: Sequence[str] = field(default_factory=engine_tests)
    update: tuple[int, int, int, int] = (8, 8, 200, 300)
    job: tuple[int, int, int] = (12, 8, 8)

    @property
    def results(self) -> Results:
        return Results(self.directory / "results.json")

    @property
    def card(self) -> Path:
        """The lock of whoever measures."""
        return self.directory / "card.lock"

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"directory": str(self.directory)})

    @classmethod
    def from_json(cls, text: str) -> Options:
        values = json.loads(text)
        known = {one.name for one in fields(cls)}
        options = {name: value for name, value in values.items() if name in known}
        return cls(**options | {"directory": Path(values["directory"]), "shape": Shape(**values["shape"])})
