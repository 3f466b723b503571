"""What a worker does with a job that it has claimed: opens its data, and checks them or trains on them by its method.

The end is reported from here, unless the worker is told to stop (loop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

from server.core.errors import ApiError
from server.limits.fair_semaphore import TenantSemaphores
from server.training.jobs.config import EvolutionConfig, GradientConfig, ReinforcementConfig, RewardedConfig
from server.training.jobs.protocol import ClaimedJob, FinishRequest, ValidatedRequest
from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.context import WorkerContext
from server.training.worker.evolution import evolution
from server.training.worker.graded_sampling import GradedSampling
from server.training.worker.gradient import Loss, gradient_training
from server.training.worker.job import train
from server.training.worker.job_data import JobData, open_job_data
from server.training.worker.job_state import JobState
from server.training.worker.learnable_prompts import LearnablePrompts
from server.training.worker.method import Method
from server.training.worker.outcome import failed
from server.training.worker.reinforcement import Reinforcement
from server.training.worker.supervised import Supervised
from server.training.worker.tokenizer_check import check_tokenizer
from server.training.worker.tracking import Trackers


@dataclass(frozen=True, slots=True)
class JobRun:
    """One claimed job.

    grading: how many completions of a tenant are graded at once. has_reasoning: whether the engine takes what
    the model thinks out of its answers. max_step_tokens: the server's setting, by which the files are checked.
    stored: called when they are on the disk.
    """

    job: ClaimedJob
    context: WorkerContext
    grading: TenantSemaphores
    has_reasoning: bool
    max_step_tokens: int | None
    stored: Callable[[], None]

    async def run(self) -> None:
        """Check its data, or train it to its end, as its status says.

        Raises LeaseLost when the job is another worker's by now, GatewayRefused for an answer that ends its run here,
        CannotLoad where the worker cannot read the model, CannotStore where it cannot write the files, DiskTooSmall
        where it never can, DoesNotFitNow where it has too little memory, OtherTokenizer where the engine's is not its
        own.
        """
        if self.job.status == "validating_files":
            await self._validate()
        else:
            await self._train()

    async def _validate(self) -> None:
        async with AsyncExitStack() as files:
            data = await self._open_data(files)
            if data is None:
                return
            request = ValidatedRequest(
                worker=self.context.worker,
                total_steps=data.total_steps,
                training_rows=len(data.training),
                validation_rows=data.validation_rows,
            )
        await self.context.tools.gateway.validated(self.job.id, request)
        self._log(f"can be trained: {request.training_rows} rows, {request.total_steps} steps")

    async def _train(self) -> None:
        behind = self.job.checkpoint.step if self.job.checkpoint is not None else 0
        self._log(f"starts behind step {behind}")
        async with AsyncExitStack() as files:
            data = await self._open_data(files)
            if data is None:
                return
            trackers = Trackers(self.job, self.context.tools.log_dir, behind)
            try:
                state = (
                    JobState() if self.job.checkpoint is None else JobState.model_validate(self.job.checkpoint.state)
                )
                request = await train(self.job, data, self._method(data, state), state, self.context, trackers)
            finally:
                trackers.close()
        await self._finish(request)

    async def _open_data(self, files: AsyncExitStack) -> JobData | None:
        """The job's data until `files` is closed. None when it cannot be used; the job has then been failed."""
        tools = self.context.tools
        await check_tokenizer(tools.gateway, tools.tokenizer)
        longest = await tools.gateway.max_model_len() or tools.max_tokens
        limit, kwargs = min(longest, tools.max_tokens), self.job.config.chat_template_kwargs
        chat = ChatTokens(tools.tokenizer, limit, kwargs, tools.end_tokens)
        try:
            # A job that was found to be in order is trained, whatever the setting is by then.
            most = self.max_step_tokens if self.job.status == "validating_files" else None
            opened = open_job_data(self.job, tools.gateway, tools.graders, chat, most)
            data = await files.enter_async_context(opened)
        except ApiError as error:
            if error.status >= 500:  # It says nothing of the job, which another attempt may open.
                raise
            await self._finish(failed(self.context.worker, error.code or "invalid_data", error.message, error.param))
            return None
        self.stored()
        return data

    def _method(self, data: JobData, state: JobState) -> AbstractAsyncContextManager[Method]:
        tools, config = self.context.tools, self.job.config
        loss: Loss[Any] = Supervised(data, tools.trainer)
        if isinstance(config, RewardedConfig):
            assert data.grader is not None
            prompts = None
            if config.prompt_selection == "learnable":
                prompts = LearnablePrompts(len(data.training), config.batch_size, self.job.seed, state)
            sampling = GradedSampling(
                self.job, config, data, data.grader, tools.rollouts, self.grading, prompts, self.has_reasoning
            )
            if isinstance(config, EvolutionConfig):
                return evolution(self.job, config, sampling, tools.factors, state)
            assert isinstance(config, ReinforcementConfig)
            loss = Reinforcement(config, sampling, tools.trainer)
        assert isinstance(config, GradientConfig)
        total_steps = self.job.total_steps or data.total_steps
        return gradient_training(self.job, config, loss, tools.trainer, tools.factors, state, total_steps)

    async def _finish(self, request: FinishRequest) -> None:
        answer = await self.context.tools.gateway.finish(self.job.id, request)
        why = "" if request.error is None else f": {request.error.message}"
        result = "" if answer.fine_tuned_model is None else f": {answer.fine_tuned_model}"
        self._log(f"ended, {answer.status}{why}{result}")

    def _log(self, text: str) -> None:
        self.context.log(f"{self.job.id} ({self.job.tenant}) {text}")
