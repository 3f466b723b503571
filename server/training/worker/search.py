"""A search for a vector without gradients: what its algorithms have in common.

A search has a mean and a distribution around it. Each generation draws candidates in mirrored pairs, mean + x and
mean - x; each gets a fitness, of which only the order counts, and mean and distribution move.

Fitness compares candidates that all had the same prompts, with the same seeds. So what a prompt is worth to all of
them is taken out: the fitness of a candidate is the mean over prompts of its reward minus the mean reward that
candidates got there. Without missing rewards that is its mean reward but for a constant, and one that could not be
given makes nobody better or worse.

Where numbers of the vector have a bound, a search is told of candidates as it drew them, whatever is tried in their
place. Told of candidates at the bound instead, CMA-ES takes the spread that they lost for its own and raises sigma.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from adapters.vector.errors import CheckpointError

Array = npt.NDArray[np.float64]


class Search(Protocol):
    """An algorithm and its state. Shapes: P candidates, N numbers of the vector; float64."""

    @property
    def mean_N(self) -> Array:
        """The middle of the distribution: what is trained."""

    @property
    def sigma(self) -> float:
        """How far candidates are from the mean in each number: the root of the mean variance."""

    def ask(self, seed: int) -> Array:
        """The candidates of a generation (P, N), the same for the same state and seed. Row i + P/2 mirrors row i."""

    def tell(self, candidates_PN: Array, fitness_P: Array) -> None:
        """Move towards candidates of high fitness: of one generation, as `ask` gave it, rounded at most."""

    def state_to_bytes(self) -> bytes:
        """All that the next generation depends on. Equal states give equal bytes."""

    def state_from_bytes(self, data: bytes) -> None:
        """Go on from there. CheckpointError when it is no state of such a search."""


def mirrored(steps_HN: Array, mean_N: Array) -> Array:
    """Candidates (2 H, N): the mean plus each step, then minus each."""
    return np.concatenate([mean_N + steps_HN, mean_N - steps_HN])


def within(values_N: Array, bound: float | None) -> Array:
    """Every number moved to -bound .. bound; None for no bound."""
    return values_N if bound is None else np.clip(values_N, -bound, bound)


def fitness_of(rewards_PB: Array) -> Array:
    """The fitness (P,) from the rewards of P candidates for B prompts, NaN where there is none; see the module.

    0, the mean, for a candidate without any reward.
    """
    known_PB = ~np.isnan(rewards_PB)
    centred_PB = np.where(known_PB, rewards_PB - _mean(rewards_PB, known_PB, 0), 0.0)
    return _mean(centred_PB, known_PB, 1)[:, 0]


def ranks(fitness_P: Array) -> Array:
    """The rank of each from 0, the lowest; equal ones share the mean of theirs."""
    ordered, place_P = np.unique(fitness_P, return_inverse=True)
    counts = np.bincount(place_P, minlength=len(ordered))
    middle = np.cumsum(counts) - (counts + 1) / 2
    result: Array = middle[place_P]
    return result


def rank_correlation(one_P: Array, other_P: Array) -> float:
    """Spearman's, of two fitnesses of the same candidates; 0 where one of them is constant."""
    a_P, b_P = (ranks(fitness_P) - (len(fitness_P) - 1) / 2 for fitness_P in (one_P, other_P))
    norm = float(np.sqrt((a_P @ a_P) * (b_P @ b_P)))
    return float(a_P @ b_P) / norm if norm else 0.0


def to_bytes(arrays: Mapping[str, npt.ArrayLike]) -> bytes:
    """A safetensors file of float64 arrays."""
    return safetensors.numpy.save({name: np.array(array, dtype=np.float64) for name, array in arrays.items()})


def from_bytes(data: bytes, like: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """What `to_bytes` wrote. CheckpointError when names or shapes are not those of `like`."""
    try:
        found = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"not a readable state of a search: {error}") from error
    expected = {name: np.shape(array) for name, array in like.items()}
    if {name: array.shape for name, array in found.items()} != expected:
        raise CheckpointError(
            "the state is that of another search; resume with the algorithm, population and recipe the training began "
            "with"
        )
    return found


def _mean(values_PB: Array, known_PB: npt.NDArray[np.bool_], axis: int) -> Array:
    """The mean of known values along an axis, which is kept; 0 where there is none."""
    sums: Array = np.where(known_PB, values_PB, 0.0).sum(axis, keepdims=True)
    counts: Array = np.maximum(known_PB.sum(axis, keepdims=True), 1)
    return sums / counts
