"""Factors of a base model that has none yet, computed on a GPU in a process of their own.

The server's own process must not use CUDA: it could then not fork the engine, and would keep half a gigabyte of the GPU
for as long as it runs.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import structlog

from adapters.factors.build import Device, find_factors, find_or_build_factors
from adapters.factors.factors import Kind

log = structlog.get_logger(__name__)


def build_apart(model: str, *, rank: int, kind: Kind, device: Device = "cuda") -> bool:
    """Compute the factors of `model`, unless they are there; whether they are there now.

    False, and a warning, where the device cannot do it (too little memory, say); a CPU then may. Raises FactorsError as
    `find_or_build_factors`.
    """
    if find_factors(model, rank=rank, kind=kind) is not None:
        return True
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            pool.submit(_build, model, rank, kind, device).result()
        except (RuntimeError, BrokenProcessPool) as error:  # torch's, of CUDA
            log.warning("factors_not_on_gpu", reason=str(error))
            return False
    return True


def _build(model: str, rank: int, kind: Kind, device: Device) -> None:
    find_or_build_factors(model, rank=rank, kind=kind, device=device)
