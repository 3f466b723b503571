"""Building the factors of a base model, and finding those built before.

Factors are kept beside the model, in `<model>/tinylora/`, or under the user's cache directory when that cannot be
written. They are used again as long as the fingerprint of the weights (model_files.py) is the same. Two processes that
need the same factors build them once: the second waits.

Memory: one weight in float32 and its copy on disk, besides the factors themselves; on a GPU that one weight.

The digest is of the numbers that came out. Another device, or another processor, rounds otherwise, and its factors of
the same weights, though right to the same 1e-5, have another digest: adapters of the one are not accepted with the
other. So factors are computed once for a base model, wherever that is fastest, and then the file is copied. Those that
are there are taken, whatever computed them.
"""

import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from adapters.factors.factors import Factors, Kind, Triplet, find_files, open_factors, read_metadata, save_factors
from adapters.factors.model_directory import locate_model
from adapters.factors.model_files import ModelFiles, Weight, read_model
from adapters.factors.progress import shown
from adapters.factors.random_triplet import random_triplet
from adapters.factors.truncated_svd import truncated_svd
from adapters.vector.errors import FactorsError

MAX_RANK = 64
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class BuildCost:
    """What a build cost: wall-clock seconds, and bytes by which it raised the peak memory of this process."""

    seconds: float
    peak_bytes: int


def build_factors(
    model_dir: str | Path,
    *,
    rank: int = 2,
    kind: Kind = "svd",
    seed: int = 0,
    out_dir: str | Path | None = None,
    progress: bool = True,
    device: Device = "cpu",
) -> Factors:
    """Compute the factors of the model in `model_dir`, write them into `out_dir` (default: beside it) and open them.

    `seed` matters to `random` factors only. `progress` shows a bar on a terminal and one line elsewhere, on stderr.
    `device` computes those of `svd`.

    Raises FactorsError: unsupported or quantised model, missing files, rank above 64 or above a weight's size.
    """
    _check(rank, kind)
    files = read_model(Path(model_dir).expanduser())
    fingerprint = files.fingerprint()
    directory = (
        Path(out_dir) if out_dir is not None else first_writable(cache_directories(files.directory, fingerprint))
    )
    return _build(files, fingerprint, rank, kind, seed, directory, progress, device)


def find_factors(model: str | Path, *, rank: int = 2, kind: Kind = "svd", seed: int = 0) -> Factors | None:
    """The factors of `model` that were built before, if they were. Raises as `find_or_build_factors`."""
    _check(rank, kind)
    files = read_model(locate_model(model))
    fingerprint = files.fingerprint()
    return _find(cache_directories(files.directory, fingerprint), fingerprint, rank, kind, seed)


def find_or_build_factors(
    model: str | Path,
    *,
    rank: int = 2,
    kind: Kind = "svd",
    seed: int = 0,
    progress: bool = True,
    device: Device = "cpu",
) -> Factors:
    """The factors of `model`, a directory or a hub id: those built before for the same weights, or new ones.

    Raises FactorsError as `build_factors`, and when the model cannot be had from the hub.
    """
    _check(rank, kind)
    files = read_model(locate_model(model))
    fingerprint = files.fingerprint()
    directories = cache_directories(files.directory, fingerprint)
    found = _find(directories, fingerprint, rank, kind, seed)
    if found:
        return found
    directory = first_writable(directories)
    with FileLock(directory / f".{kind}-r{rank}.lock"):
        # Another process may have built them while this one waited.
        found = _find(directories, fingerprint, rank, kind, seed)
        return found or _build(files, fingerprint, rank, kind, seed, directory, progress, device)


def measure_build(
    model_dir: str | Path, *, rank: int = 2, kind: Kind = "svd", seed: int = 0, out_dir: str | Path | None = None
) -> tuple[Factors, BuildCost]:
    """`build_factors` and what it cost. The peak is that of the process so far, so measure in a fresh one."""
    start, peak = time.perf_counter(), peak_memory()
    factors = build_factors(model_dir, rank=rank, kind=kind, seed=seed, out_dir=out_dir, progress=False)
    return factors, BuildCost(time.perf_counter() - start, peak_memory() - peak)


def peak_memory() -> int:
    """The largest resident set this process has had, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _check(rank: int, kind: Kind) -> None:
    if not 1 <= rank <= MAX_RANK:
        raise FactorsError(f"rank must be from 1 to {MAX_RANK}, got {rank}", field="rank")
    if kind not in ("svd", "random"):
        raise FactorsError(f"kind must be svd or random, got {kind!r}", field="kind")


def _build(
    files: ModelFiles,
    fingerprint: str,
    rank: int,
    kind: Kind,
    seed: int,
    directory: Path,
    progress: bool,
    device: Device,
) -> Factors:
    triplets = ((weight.module, _triplet(weight, rank, kind, seed, device)) for weight in files.weights)
    description = f"Factors of {files.name} ({kind}, rank {rank})"
    return save_factors(
        directory,
        shown(triplets, len(files.weights), description) if progress else triplets,
        rank=rank,
        kind=kind,
        seed=seed if kind == "random" else 0,
        base_model=files.name,
        config_sha256=files.config_sha256,
        weights_fingerprint=fingerprint,
    )


def _triplet(weight: Weight, rank: int, kind: Kind, seed: int, device: Device) -> Triplet:
    if min(weight.shape) < rank:
        raise FactorsError(f"{weight.module} is {weight.shape}, too small for rank {rank}", field="rank")
    if kind == "random":
        return random_triplet(weight.read(), rank, seed, weight.module)
    return truncated_svd(weight.read(device), rank)


def _find(directories: list[Path], fingerprint: str, rank: int, kind: Kind, seed: int) -> Factors | None:
    for path in (path for directory in directories for path in find_files(directory, rank, kind)):
        try:
            metadata = read_metadata(path)
            if metadata["weights_fingerprint"] == fingerprint and metadata["seed"] == (seed if kind == "random" else 0):
                return open_factors(path)
        except FactorsError:
            # Damaged, or of an older format: building again replaces it.
            continue
    return None


def cache_directories(model: Path, fingerprint: str) -> list[Path]:
    """Where what is computed of a model is kept, and looked for."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [model / "tinylora", cache / "tinylora" / fingerprint[:16]]


def first_writable(directories: list[Path]) -> Path:
    """The first that can be made and written into; FactorsError when none can."""
    problems = []
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                return directory
        except OSError as error:
            problems.append(str(error))
    raise FactorsError(f"no directory to keep the factors in: {'; '.join(problems)}; make one of them writable")
