"""GRPO: groups of completions sampled by the serving engine, graded, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from adapters.vector.adapter import Adapter
from server.training.jobs.config import ReinforcementConfig
from server.training.jobs.sampled_group import SampledGroup
from server.training.worker.forward import Task
from server.training.worker.graded_sampling import GradedSampling, event_data, mean_reward, part_means
from server.training.worker.gradient import Batch
from server.training.worker.grading import Graded
from server.training.worker.grpo import GrpoObjective, grpo_objective, k3
from server.training.worker.grpo_metrics import GrpoMetrics
from server.training.worker.method import Evaluation
from server.training.worker.packing import TokenSequence
from server.training.worker.step_samples import train_samples
from server.training.worker.trainer import Trainer

# Of a step, scored again behind its update.
WATCHED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Reinforcement:
    """The Loss (gradient.py) of GRPO."""

    config: ReinforcementConfig
    sampling: GradedSampling
    trainer: Trainer

    async def collect(self, step: int, adapter: Adapter | None) -> Graded:
        return await self.sampling.of_step(step, [adapter], self.config.group_size)

    def observe(self, step: int, collected: Graded) -> None:
        self.sampling.observe(step, collected)

    async def batch(self, collected: Graded, handle: int, behavior_policy: Adapter | None) -> Batch:
        groups, temperature = collected.groups, self.config.temperature
        completions = [completion for graded in groups for completion in graded.group.completions]
        rewards = [reward for graded in groups for reward in graded.rewards]
        group_numbers = [number for number, graded in enumerate(groups) for _ in graded.grades]
        sequences = [
            TokenSequence(handle, groups[number].group.prompt, completion.tokens, temperature, completion.sampled)
            for number, completion in zip(group_numbers, completions, strict=True)
        ]
        logprobs = [list(completion.logprobs) for completion in completions]
        if behavior_policy is not None and not self.sampling.sampling(temperature).with_logprobs:
            logprobs = await self.trainer.logprobs(behavior_policy, sequences)
        objective = grpo_objective(sequences, rewards, group_numbers, self.config, logprobs)
        objective = replace(objective, watched=_watched(objective.rows, group_numbers, sequences))
        return Batch(
            Task(sequences, objective),
            trained_tokens=sum(len(sequences[row]) for row in objective.rows),
            metrics={
                **part_means(collected, "train"),
                "train_reward_mean": mean_reward(collected, "the step"),
                "train_reward_error": collected.standard_error,
                **collected.numbers,
            },
            is_flat=collected.is_flat,
            event_data=event_data(collected),
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
        before_N = torch.tensor([logprob for _, part in metrics.watched_logprobs for logprob in part]).double()
        behind_N = tokens.logprobs_BC[tokens.mask_BC].cpu().double()
        return {"step_kl": k3(before_N, behind_N).mean().item()}

    async def distance_per_nat(self, start: Adapter) -> float | None:
        return await self.sampling.distance_per_nat(start)

    async def evaluate(self, handle: int, adapter: Adapter | None) -> Evaluation:
        return await self.sampling.evaluate(adapter)


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
