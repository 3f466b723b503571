"""A job's completions and their rewards: how the methods that are rewarded sample, and how they evaluate.

The seed of a request depends on the job's seed, the step and the row's place in it, and not on the vector. Evaluations
use the same seeds every time, so that what changes between two of them is the vector. With one completion per held-out
row evaluation is greedy, with several it samples at the temperature of training.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.vector.adapter import Adapter
from server.limits.fair_semaphore import Slots
from server.training.graders.grade import Grader
from server.training.jobs.config import EvolutionConfig, ReinforcementConfig
from server.training.jobs.protocol import ClaimedJob
from server.training.jobs.sampled_group import Split
from server.training.worker import probe
from server.training.worker.conversations import Conversations
from server.training.worker.grading import Graded, GradedRollouts
from server.training.worker.http_retry import GatewayRefused
from server.training.worker.job_data import Example, JobData
from server.training.worker.learnable_prompts import LearnablePrompts
from server.training.worker.method import Evaluation, GraderOutage, TrainingFailed
from server.training.worker.rollout import RolloutClient, RolloutRequest, Sampling, ScoreRequest, seed_of
from server.training.worker.step_samples import held_out_samples


@dataclass(frozen=True, slots=True)
class GradedSampling:
    """For one job. `grading_semaphore` bounds how many completions are graded at once, or have their environment asked,
    over the tenant's jobs. `prompts` chooses the rows of a step; None: every row comes once per epoch.
    `reasoning`: as in Conversations."""

    job: ClaimedJob
    config: ReinforcementConfig | EvolutionConfig
    data: JobData
    grader: Grader
    rollouts: RolloutClient
    grading_semaphore: Slots
    prompts: LearnablePrompts | None = None
    reasoning: bool = False

    async def of_step(self, step: int, adapters: Sequence[Adapter | None], count: int) -> Graded:
        """`count` completions of every prompt of step `step` by each of `adapters`, for which prompts and seeds are the
        same. The groups of an adapter follow those of the one before it.

        When there is no reward: GatewayRefused if the engine failed, else TrainingFailed.
        """
        prompts = self.prompts
        examples = await (self.data.batch(step) if prompts is None else self.data.of_rows(prompts.batch()))
        graded = await self._graded(examples, adapters, "train", step, count, self.config.temperature)
        mean_reward(graded, f"step {step}")
        return graded

    def observe(self, step: int, graded: Graded) -> None:
        """Have the rows of the next steps chosen by what the groups of this one did, one for each of its prompts."""
        if self.prompts is not None:
            self.prompts.observe(step, [group.differs for group in graded.groups])

    async def evaluate(self, adapter: Adapter | None) -> Evaluation:
        """The adapter (None: the base model) on the held-out rows; errors as of `of_step`."""
        count = self.config.eval_samples
        temperature = 0.0 if count == 1 else self.config.temperature
        graded = await self._graded(await self.data.held_out(), [adapter], "valid", 0, count, temperature)
        mean = mean_reward(graded, "the held-out rows")
        error = graded.standard_error
        metrics = {**part_means(graded, "valid"), "valid_reward_mean": mean, "valid_reward_error": error}
        found = {
            "errors": graded.errors,
            "first_error": graded.first_error,
            "grader_error_share": graded.numbers["grader_error_share"],
        }
        return Evaluation(
            metrics,
            mean,
            error,
            by_row=graded.by_prompt_means,
            is_graded=graded.is_graded,
            outage_share=graded.outage_share,
            event_data=found,
            samples=held_out_samples(graded.groups),
        )

    async def distance_per_nat(self, start: Adapter) -> float | None:
        """How far the numbers of the vector move for a change of one nat (probe.py), around `start` (float32)."""
        job, examples = self.job, (await self.data.batch(1))[: probe.ROWS]
        # One token less than there is room for, because scoring writes one more.
        most = max(1, min(probe.TOKENS, self.config.max_completion_tokens - 1))
        sampling = replace(self.sampling(1.0), max_tokens=most)
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

    def sampling(self, temperature: float) -> Sampling:
        """How the job samples."""
        response_format = self.job.method[self.config.method].get("response_format")
        return Sampling(self.config.max_completion_tokens, temperature, response_format)

    async def _graded(
        self,
        examples: Sequence[Example],
        adapters: Sequence[Adapter | None],
        purpose: str,
        step: int,
        count: int,
        temperature: float,
    ) -> Graded:
        job, sampling = self.job, self.sampling(temperature)
        seeds = [seed_of(job.seed, purpose, step, place) for place in range(len(examples))]
        requests = [
            RolloutRequest(example.prompt, count, sampling, adapter, seed, job.tenant, job.id)
            for adapter in adapters
            for example, seed in zip(examples, seeds, strict=True)
        ]
        semaphore = self.grading_semaphore
        conversations = Conversations(
            self.rollouts,
            self.data.turns,
            self.data.environment,
            semaphore,
            self.reasoning,
            self.config.chat_template_kwargs,
        )
        graded = GradedRollouts(conversations, self.grader, semaphore)
        return await graded.collect(requests, [*examples] * len(adapters))


def mean_reward(graded: Graded, of: str) -> float:
    """The mean reward. When there is no reward: GatewayRefused if the engine failed, GraderOutage if the graders did
    for all that was sampled, else TrainingFailed."""
    if graded.mean is not None:
        return graded.mean
    for group in graded.groups:
        if group.group.status is not None and group.group.status >= 500:
            raise GatewayRefused(group.group.status, "", f"no completions: {group.group.error}")
    error = GraderOutage if graded.is_outage else TrainingFailed
    raise error("no_rewards", f"Not one completion of {of} could be sampled and graded: {graded.first_error}")


def part_means(graded: Graded, split: Split) -> dict[str, float]:
    """The mean scores of a multi grader's parts, by the names of the report."""
    return {f"{split}_{name}": value for name, value in graded.parts.items() if name.isidentifier()}


def event_data(graded: Graded) -> dict[str, Any]:
    """What the event of a step says of its completions (StepResult)."""
    completions = [completion for group in graded.groups for completion in group.group.completions]
    return {
        "errors": graded.errors,
        "first_error": graded.first_error,
        "no_answer": graded.no_answer,
        "graders": [{"name": name, "train_reward_mean": value} for name, value in graded.parts.items()],
        "usage": {
            "samples": len(completions),
            "completion_tokens": sum(completion.sampled_count for completion in completions),
        },
        "graders_s": graded.grading_s,
    }
