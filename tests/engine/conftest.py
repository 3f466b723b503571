"""Tiny models, their factors and PEFT's answers for them, once for all engine tests."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from tests.engine.noise import measured_tolerance
from tests.engine.reference import PeftReference, save_tiny_model
from tests.engine.running import RunningEngine

ADAPTERS = 32


@dataclass(frozen=True)
class Tiny:
    path: Path
    factors: Factors
    reference: PeftReference

    def engine(self, **options: object) -> RunningEngine:
        running = RunningEngine(str(self.path), self.factors, **options)  # type: ignore[arg-type]
        if options.get("runner") != "pooling":
            running.tolerance = measured_tolerance(running, self.reference)
        return running


class TinyModels:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Tiny] = {}

    def get(self, family: str) -> Tiny:
        if family not in self._made:
            path = save_tiny_model(self._directory / family, family)
            factors = build_factors(path, progress=False)
            self._made[family] = Tiny(path, factors, PeftReference(path, factors, ADAPTERS))
        return self._made[family]


@pytest.fixture(scope="package", autouse=True)
def one_thread_on_any_core() -> Iterator[None]:
    """Side by side: an engine on a CPU would take the first core, where that of another process is."""
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def llama(tiny_models: TinyModels) -> Tiny:
    return tiny_models.get("llama")


@pytest.fixture(scope="module")
def engine(llama: Tiny) -> Iterator[RunningEngine]:
    """Eager, with prefix caching, and a token budget small enough that prompts are prefilled in chunks."""
    running = llama.engine(max_num_batched_tokens=64, enable_prefix_caching=True)
    yield running
    running.close()
