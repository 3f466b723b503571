"""GRPO: groups of completions sampled by the serving engine, graded, and the loss on them.

The seed of a request depends on the job's seed, the step and the row's place in it. Evaluations use the same seeds
every time, so that what changes between two of them is the vector. With one completion per held-out row evaluation is
greedy, with several it samples at the temperature of training.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.vector.adapter import Adapter
from server.training.graders.grade import Grader
from server.training.jobs.config import ReinforcementConfig
from server.training.jobs.protocol import ClaimedJob
from server.training.jobs.sampled_group import SampledGroup
from server.training.worker import probe
from server.training.worker.fair_semaphore import FairSemaphore
from server.training.worker.forward import Task
from server.training.worker.gradient import Batch
from server.training.worker.grading import Graded, GradedRollouts
from server.training.worker.grpo import GrpoObjective, grpo_objective, k3
from server.training.worker.grpo_metrics import GrpoMetrics
from server.training.worker.http_retry import GatewayRefused
from server.training.worker.job_data import Example, JobData
from server.training.worker.method import Evaluation, TrainingFailed
from server.training.worker.packing import TokenSequence
from server.training.worker.rollout import RolloutClient, RolloutRequest, Sampling, ScoreRequest, seed_of
from server.training.worker.step_samples import held_out_samples, train_samples
from server.training.worker.trainer import Trainer

# Of a step, scored again behind its update.
WATCHED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Reinforcement:
    """The Loss (gradient.py) of GRPO. `grading_semaphore` bounds how many completions are graded at once."""

    job: ClaimedJob
    config: ReinforcementConfig
    data: JobData
    grader: Grader
    trainer: Trainer
    rollouts: RolloutClient
    grading_semaphore: FairSemaphore

    async def collect(self, step: int, adapter: Adapter | None) -> Graded:
        examples = await self.data.batch(step)
        graded = await self._graded_rollouts(
            examples, adapter, "train", step, self.config.group_size, self.config.temperature
        )
        _mean_reward(graded, f"step {step}")
        return graded

    async def batch(self, collected: Graded, handle: int, behavior_policy: Adapter | None) -> Batch:
        groups, temperature = collected.groups, self.config.temperature
        completions = [completion for graded in groups for completion in graded.group.completions]
        rewards = [reward for graded in groups for reward in graded.rewards]
        group_numbers = [number for number, graded in enumerate(groups) for _ in graded.grades]
        sequences = [
            TokenSequence(handle, groups[number].group.prompt, completion.tokens, temperature)
            for number, completion in zip(group_numbers, completions, strict=True)
        ]
        logprobs = [list(completion.logprobs) for completion in completions]
        if behavior_policy is not None and not self._sampling(temperature).with_logprobs:
            logprobs = await self._scored(sequences, behavior_policy)
        objective = grpo_objective(sequences, rewards, group_numbers, self.config, logprobs)
        objective = replace(objective, watched=_watched(objective.rows, group_numbers, sequences))
        tokens = sum(len(completion.tokens) for completion in completions)
        return Batch(
            Task(sequences, objective),
            trained_tokens=sum(len(sequences[row]) for row in objective.rows),
            metrics={
                "train_reward_mean": _mean_reward(collected, "the step"),
                "train_reward_error": collected.standard_error,
                **collected.numbers,
            },
            is_flat=collected.is_flat,
            event_data={
                "errors": collected.errors,
                "first_error": collected.first_error,
                "graders": [{"name": name, "train_reward_mean": value} for name, value in collected.parts.items()],
                "usage": {"samples": len(completions), "completion_tokens": tokens},
                "graders_s": collected.grading_s,
            },
            grading_wait_s=collected.waited_s,
        )

    def named_metrics(self, metrics: Any) -> dict[str, float]:
        assert isinstance(metrics, GrpoMetrics)
        return metrics.named()

    def samples(self, collected: Graded, batch: Batch, metrics: Any) -> list[SampledGroup]:
        objective = batch.task.objective
        assert isinstance(metrics, GrpoMetrics) and isinstance(objective, GrpoObjective)
        return train_samples(collected.groups, objective.advantages_B.tolist(), dict(metrics.row_importances))

    async def moved(self, batch: Batch, metrics: Any) -> dict[str, float]:
        """step_kl: KL divergence of the policy before the update from that behind it, nats per token, k3 estimate."""
        assert isinstance(metrics, GrpoMetrics)
        if not metrics.watched_logprobs:
            return {}
        rows = [row for row, _ in metrics.watched_logprobs]
        tokens = await self.trainer.score([batch.task.batch[row] for row in rows])
        before_BC = pad_sequence([torch.tensor(part) for _, part in metrics.watched_logprobs], batch_first=True)
        kl_BC = k3(before_BC.double(), tokens.logprobs_BC.cpu().double())
        return {"step_kl": kl_BC[tokens.mask_BC.cpu()].mean().item()}

    async def distance_per_nat(self, start: Adapter) -> float | None:
        job, examples = self.job, (await self.data.batch(1))[: probe.ROWS]
        # One token less than there is room for, because scoring writes one more.
        most = max(1, min(probe.TOKENS, self.config.max_completion_tokens - 1))
        sampling = replace(self._sampling(1.0), max_tokens=most)
        groups = await asyncio.gather(
            *(
                self.rollouts.sample(
                    RolloutRequest(
                        example.prompt, 1, sampling, start, seed_of(job.seed, "probe", 0, place), job.tenant, job.id
                    )
                )
                for place, example in enumerate(examples)
            )
        )
        sampled = [(group.prompt, completion.tokens) for group in groups for completion in group.completions]

        async def score_one(adapter: Adapter, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
            try:
                return await self.rollouts.score(ScoreRequest(prompt, tokens, adapter, job.tenant, job.id))
            except GatewayRefused as error:
                if error.status != 400:
                    raise
                return [math.nan] * len(tokens)

        async def score(adapter: Adapter) -> list[list[float]]:
            return await asyncio.gather(*(score_one(adapter, prompt, tokens) for prompt, tokens in sampled))

        return await probe.distance_per_nat(start, score, job.seed) if sampled else None

    async def evaluate(self, handle: int, adapter: Adapter | None) -> Evaluation:
        count = self.config.eval_samples
        temperature = 0.0 if count == 1 else self.config.temperature
        graded = await self._graded_rollouts(await self.data.held_out(), adapter, "valid", 0, count, temperature)
        mean = _mean_reward(graded, "the held-out rows")
        parts = {f"valid_{name}": value for name, value in graded.parts.items() if name.isidentifier()}
        error = graded.standard_error
        metrics = {"valid_reward_mean": mean, "valid_reward_error": error, **parts}
        return Evaluation(metrics, mean, error, held_out_samples(graded.groups))

    async def _graded_rollouts(
        self,
        examples: Sequence[Example],
        adapter: Adapter | None,
        purpose: str,
        step: int,
        count: int,
        temperature: float,
    ) -> Graded:
        job, sampling = self.job, self._sampling(temperature)
        seeds = [seed_of(job.seed, purpose, step, place) for place in range(len(examples))]
        requests = [
            RolloutRequest(example.prompt, count, sampling, adapter, seed, job.tenant, job.id)
            for example, seed in zip(examples, seeds, strict=True)
        ]
        return await GradedRollouts(self.rollouts, self.grader, self.grading_semaphore).collect(requests, examples)

    def _sampling(self, temperature: float) -> Sampling:
        response_format = self.job.method["reinforcement"].get("response_format")
        return Sampling(self.config.max_completion_tokens, temperature, response_format)

    async def _scored(self, sequences: list[TokenSequence], adapter: Adapter) -> list[list[float]]:
        """Log-probabilities of the completions under `adapter`, computed by this worker's model."""
        handle, _ = await self.trainer.add(adapter)
        try:
            tokens = await self.trainer.score([replace(sequence, adapter=handle) for sequence in sequences])
        finally:
            await self.trainer.remove(handle)
        return [_row(tokens.logprobs_BC[row], len(sequence.completion)) for row, sequence in enumerate(sequences)]


def _mean_reward(graded: Graded, of: str) -> float:
    """The mean reward. When there is no reward: GatewayRefused if the engine failed, else TrainingFailed."""
    if graded.mean is not None:
        return graded.mean
    for group in graded.groups:
        if group.group.status is not None and group.group.status >= 500:
            raise GatewayRefused(group.group.status, "", f"no completions: {group.group.error}")
    raise TrainingFailed("no_rewards", f"Not one completion of {of} could be sampled and graded: {graded.first_error}")


def _watched(rows: Sequence[int], group_numbers: Sequence[int], sequences: Sequence[TokenSequence]) -> frozenset[int]:
    """Of the rows that are run, one of each group, as many as WATCHED_TOKENS allow, one at least."""
    first_of_group = {group_numbers[row]: row for row in reversed(rows)}
    chosen: set[int] = set()
    tokens = 0
    for row in sorted(first_of_group.values()):
        tokens += len(sequences[row])
        if chosen and tokens > WATCHED_TOKENS:
            break
        chosen.add(row)
    return frozenset(chosen)


def _row(logprobs_C: Tensor, length: int) -> list[float]:
    values: list[float] = logprobs_C[:length].tolist()
    return values
