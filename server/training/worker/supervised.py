"""Supervised fine-tuning: the cross-entropy of the answers in the data. Nothing is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.apply.trainable import BASE
from adapters.vector.adapter import Adapter
from server.training.jobs.sampled_group import SampledGroup
from server.training.worker import probe
from server.training.worker.forward import Task
from server.training.worker.gradient import Batch
from server.training.worker.job_data import Example, JobData
from server.training.worker.method import Evaluation
from server.training.worker.packing import TokenSequence
from server.training.worker.sft_objective import SftMetrics, sft_objective
from server.training.worker.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Supervised:
    """The Loss (gradient.py) of supervised fine-tuning."""

    data: JobData
    trainer: Trainer

    async def collect(self, step: int, adapter: Adapter | None) -> list[Example]:
        return await self.data.batch(step)

    def observe(self, step: int, collected: list[Example]) -> None:
        pass

    async def batch(self, collected: list[Example], handle: int, behavior_policy: Adapter | None) -> Batch:
        sequences = _sequences(collected, handle)
        objective = sft_objective(sequences, [example.line for example in collected])
        return Batch(Task(sequences, objective), sum(map(len, sequences)), metrics={})

    def named_metrics(self, metrics: Any) -> dict[str, float]:
        assert isinstance(metrics, SftMetrics)
        return {
            "train_loss": metrics.loss,
            "train_loss_error": metrics.error,
            "train_mean_token_accuracy": metrics.accuracy,
        }

    async def distance_per_nat(self, start: Adapter) -> float | None:
        examples = (await self.data.batch(1))[: probe.ROWS]
        answers = [TokenSequence(BASE, one.prompt, one.completion[: probe.TOKENS]) for one in examples]
        return await probe.distance_per_nat(start, lambda adapter: self.trainer.logprobs(adapter, answers), seed=0)

    def samples(self, collected: list[Example], batch: Batch, metrics: Any) -> list[SampledGroup]:
        return []

    async def moved(self, batch: Batch, metrics: Any) -> dict[str, float]:
        return {}

    async def evaluate(self, handle: int, adapter: Adapter | None) -> Evaluation:
        count, hits, logprobs = 0, 0, 0.0
        async for examples in self.data.held_out_portions():
            tokens = await self.trainer.score(_sequences(examples, handle))
            count += int(tokens.mask_BC.sum())
            hits += int(tokens.hits_BC.sum())
            logprobs += tokens.logprobs_BC.double().sum().item()
        loss = -logprobs / count
        return Evaluation({"valid_loss": loss, "valid_mean_token_accuracy": hits / count}, -loss)


def _sequences(examples: Sequence[Example], handle: int) -> list[TokenSequence]:
    return [TokenSequence(handle, example.prompt, example.completion) for example in examples]
