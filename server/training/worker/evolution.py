"""Training without a gradient: a generation of vectors is tried by the serving engine, and the search goes on from it.

    candidates around the mean -> all of them on the same prompts with the same seeds, in one batch -> fitness -> mean

The engine computes every candidate's completions side by side, since each is only the vector of a request. So there is
no model here, and nothing that a reward or a base model would have to be for it: rewards need no groups that differ,
and a quantised model does as well as any.

The mean is what is evaluated, published and kept. search.py says what fitness is, cma_es.py and openai_es.py what
follows from it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adapters.vector.adapter import Adapter
from adapters.vector.codec import decode
from server.training.jobs.config import AUTO_SIGMA_NATS, EvolutionConfig
from server.training.jobs.protocol import ClaimedJob, WorkerEvent
from server.training.worker.cma_es import CmaEs
from server.training.worker.graded_sampling import GradedSampling, event_data, mean_reward, part_means
from server.training.worker.grading import Graded
from server.training.worker.job_state import JobState
from server.training.worker.method import Evaluation, StepResult
from server.training.worker.openai_es import AUTO_RATE, OpenAiEs
from server.training.worker.rollout import seed_of
from server.training.worker.search import Array, Search, fitness_of, rank_correlation, within
from server.training.worker.step_samples import train_samples
from server.training.worker.step_timer import StepTimer

# When no change of the vector changes what the model says.
UNMEASURED_SIGMA = 0.05


@asynccontextmanager
async def evolution(
    job: ClaimedJob, config: EvolutionConfig, sampling: GradedSampling, factors: str, state: JobState
) -> AsyncIterator[Evolution]:
    """The search of a job, from its checkpoint or its start. `factors`: their digest."""
    if config.sigma != "auto":
        state.sigma = config.sigma * config.learning_rate_multiplier
    training = Evolution(job, config, sampling, factors, state)
    if job.checkpoint is not None:
        training.search.state_from_bytes(job.checkpoint.optimizer)
    yield training


class Evolution:
    """The Method (method.py) of it."""

    def __init__(
        self, job: ClaimedJob, config: EvolutionConfig, sampling: GradedSampling, factors: str, state: JobState
    ) -> None:
        self._seed, self._config, self._state = job.seed, config, state
        self._sampling, self._factors = sampling, factors
        recipe, bound = config.parsed_recipe, config.max_abs_v
        mean_N = decode(job.start_vector, recipe, "float32").flatten().double().numpy()
        self._start_N = within(mean_N, bound)
        self.search = self._new_search(state.sigma or UNMEASURED_SIGMA)

    @property
    def vector(self) -> Tensor:
        return self._vector(self.search.mean_N)

    async def prepare(self) -> list[WorkerEvent]:
        if self._config.sigma != "auto":
            return []
        per_nat = await self._sampling.distance_per_nat(self._adapter(self._start_N))
        unit = UNMEASURED_SIGMA if per_nat is None else AUTO_SIGMA_NATS * per_nat
        self._state.sigma = sigma = unit * self._config.learning_rate_multiplier
        self.search = self._new_search(sigma)
        if per_nat is None:
            text = "No vector changed a log-probability, so sigma could not be measured"
            return [WorkerEvent(level="warn", message=f"{text}: it is {sigma:.3g}.")]
        text = (
            f"The search begins with sigma {sigma:.3g}: moving every number of the vector by {per_nat:.3g} changes "
            f"log-probabilities by one nat, a candidate does by {sigma / per_nat:.3g} (root mean square)."
        )
        return [WorkerEvent(message=text)]

    async def step(self, step: int, timer: StepTimer) -> StepResult:
        candidates_PN = self.search.ask(seed_of(self._seed, "candidates", step, 0))
        tried_PN = within(candidates_PN, self._config.max_abs_v)
        graded = await self._sampling.of_step(step, [self._adapter(one_N) for one_N in tried_PN], 1)
        timer.lap("sampling")
        timer.split("sampling", "grading", graded.waited_s)
        rewards_PB = _rewards(graded, len(candidates_PN))
        by_prompt = graded.by_prompt(rewards_PB.shape[1])
        self._sampling.observe(step, by_prompt)
        fitness_P = fitness_of(rewards_PB)
        if fitness_P.min() < fitness_P.max():
            self.search.tell(candidates_PN, fitness_P)
        timer.lap("training")
        return _result(graded, by_prompt, {"sigma": self.search.sigma, **_numbers(rewards_PB, fitness_P)})

    async def evaluate(self, adapter: Adapter | None) -> Evaluation:
        return await self._sampling.evaluate(adapter)

    def optimizer_state(self) -> bytes:
        return self.search.state_to_bytes()

    def _new_search(self, sigma: float) -> Search:
        config = self._config
        size, bound = config.population_size, config.max_abs_v
        if config.algorithm == "cma_es":
            return CmaEs(self._start_N, sigma, size, bound)
        rate = AUTO_RATE * sigma if config.learning_rate == "auto" else config.learning_rate
        return OpenAiEs(self._start_N, sigma, size, rate, bound)

    def _adapter(self, v_N: npt.NDArray[Any]) -> Adapter:
        return Adapter.from_vector(self._vector(v_N), self._config.parsed_recipe, self._factors, "float32")

    def _vector(self, v_N: npt.NDArray[Any]) -> Tensor:
        recipe = self._config.parsed_recipe
        return torch.from_numpy(np.array(v_N, dtype=np.float32)).reshape(recipe.groups, recipe.u)


def _rewards(graded: Graded, candidates: int) -> Array:
    """(P, B): of every candidate for every prompt; NaN where there is none."""
    rewards = [(group.rewards or [math.nan])[0] for group in graded.groups]
    return np.array(rewards).reshape(candidates, -1)


def _numbers(rewards_PB: Array, fitness_P: Array) -> dict[str, float]:
    """How much candidates differ, and how well the first and the second half of the prompts agree about them."""
    halves = np.array_split(rewards_PB, 2, axis=1)
    mean = float(np.nanmean(rewards_PB))
    numbers = {"candidate_reward_max": mean + float(fitness_P.max()), "candidate_reward_std": float(fitness_P.std())}
    if halves[1].size:
        numbers["rank_agreement"] = rank_correlation(fitness_of(halves[0]), fitness_of(halves[1]))
    return numbers


def _result(graded: Graded, by_prompt: Graded, numbers: dict[str, float]) -> StepResult:
    completions = [(group.group.prompt, one) for group in graded.groups for one in group.group.completions]
    metrics = {
        **part_means(graded, "train"),
        "train_reward_mean": mean_reward(graded, "the step"),
        "train_reward_error": by_prompt.standard_error,
        **by_prompt.numbers,
        **numbers,
    }
    return StepResult(
        trained_tokens=sum(len(prompt) + len(one.tokens) for prompt, one in completions),
        metrics=metrics,
        is_flat=by_prompt.is_flat,
        event_data=event_data(graded),
        samples=train_samples(by_prompt.groups, [None] * len(completions), {}),
    )
