"""CMA-ES (Hansen, arXiv 1604.00772), by the package cmaes, for rewards that are noisy: mirrored pairs and LRA.

Noise is handled by LRA-CMA-ES (Nomura, Akimoto and Ono, arXiv 2304.03473): the rates at which mean and covariance
learn are lowered until there is more signal than noise in what they do, with the usual population and without
evaluating anything twice. Mirrored pairs (Brockhoff, Auger, Hansen, Arnold and Hohm, PPSN 2010) make a generation see
both sides of every direction.

Design decision: both together, because each alone misjudges sigma. Where rewards say nothing, LRA alone lets sigma
grow, 9 times in 100 generations of 16 candidates with 13 numbers, which would leave a language model babbling; pairs
alone let it shrink to a 25th, because their halves cancel each other in the mean. Together it grows 2.4 times (single
runs: 0.9 to 7). On a simulated reward (benchmarks/learning/noisy_search.py: logistic, 13 numbers, 8 prompts a
generation) they also reached more with 2,000 to 8,000 completions than either alone, and with 16,000 as much as LRA
alone; and more than trying more prompts where the ranks of two halves of the prompts agreed too little, as UH-CMA-ES
tries candidates again (Hansen et al. 2009).
"""

from __future__ import annotations

import numpy as np
from cmaes import CMA

from server.training.worker.search import Array, from_bytes, mirrored, to_bytes, within

# Of cmaes.CMA, which has no names for them: all that a generation changes.
_CHANGING = (
    "_mean", "_sigma", "_C", "_p_sigma", "_pc", "_g",
    "_Emean", "_ESigma", "_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma",
)  # fmt: skip


class CmaEs:
    """The Search (search.py) of CMA-ES.

    mean_N: where it begins. sigma: how far candidates are from there. population_size: even.
    bound: on every number of the mean, and on sigma; None for none.
    """

    def __init__(self, mean_N: Array, sigma: float, population_size: int, bound: float | None = None) -> None:
        self._bound = bound
        self._cma = CMA(mean=mean_N, sigma=sigma, population_size=population_size, lr_adapt=True)

    @property
    def mean_N(self) -> Array:
        return within(np.array(self._cma.mean), self._bound)

    @property
    def sigma(self) -> float:
        return float(self._cma._sigma * np.sqrt(np.trace(self._cma._C) / self._cma.dim))

    def ask(self, seed: int) -> Array:
        noise_HN = np.random.RandomState(seed % 2**32).randn(self._cma.population_size // 2, self._cma.dim)
        return mirrored(self._cma._sigma * noise_HN @ self._root_NN(), self._cma.mean)

    def tell(self, candidates_PN: Array, fitness_P: Array) -> None:
        self._cma.tell([(one_N, -fitness) for one_N, fitness in zip(candidates_PN, fitness_P.tolist(), strict=True)])
        if self._bound is not None and self.sigma > self._bound:
            self._cma._sigma *= self._bound / self.sigma

    def state_to_bytes(self) -> bytes:
        return to_bytes(self._state())

    def state_from_bytes(self, data: bytes) -> None:
        for name, array in from_bytes(data, self._state()).items():
            value = array if array.ndim else int(array) if name == "_g" else float(array)
            setattr(self._cma, name, value)

    def _state(self) -> dict[str, Array]:
        return {name: np.asarray(getattr(self._cma, name), dtype=np.float64) for name in _CHANGING}

    def _root_NN(self) -> Array:
        """The symmetric root of the covariance.

        The package multiplies its noise by eigenvectors instead. In few generations most eigenvalues are still equal,
        and which eigenvectors they have is then decided by the last bits, so that machines would not agree.
        """
        values_N, vectors_NN = np.linalg.eigh((self._cma._C + self._cma._C.T) / 2)
        root_NN: Array = (vectors_NN * np.sqrt(np.maximum(values_N, 0.0))) @ vectors_NN.T
        return root_NN
