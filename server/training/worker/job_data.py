"""The data of one job: its files, read and checked row by row, split, and tokenized.

A job is validated by the same code that reads its data for training, so a row that the base model cannot take is
refused with its line, like one that is not JSON. Only the tokenizer is needed, not the model. The files stay on disk
as long as the job is worked on.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from server.core.errors import BadRequest
from server.core.principal import ORGANIZATION_HEADER
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.environment import parse_environment
from server.training.graders.grade import Grader
from server.training.jobs.config import AUTO_STEPS, AnyConfig, RewardedConfig
from server.training.jobs.protocol import ClaimedJob
from server.training.worker.chat_tokens import ChatTokens
from server.training.worker.chat_turns import ChatTurns
from server.training.worker.dataset import DataLimits, Row, Sampler, read_row, read_rows, split
from server.training.worker.environment import Environment
from server.training.worker.gateway_client import GatewayClient
from server.training.worker.row_store import RowStore
from server.training.worker.seen_rows import SeenRows, notes
from server.training.worker.step_size import check_rows

# Of held-out rows that are scored together; some hundred bytes each.
PORTION_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its completion as token ids.

    line: of its row, from 1. completion: empty when it is to be sampled. item: the fields of the row for the grader.
    messages: the prompt as the row has it; none of a supervised example. tools: that the prompt offers.
    """

    line: int
    prompt: Sequence[int]
    completion: Sequence[int]
    item: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()


# Of one row: its prompt (where completions are graded), or every answer that is trained on (supervised).
Examples = list[Example]


@dataclass(frozen=True, slots=True)
class JobData:
    """The rows of a job.

    training: in the order of the file. validation: at most `eval_rows` of the `validation_rows` that there are.
    notes: what its owner should know of the rows.
    grader: None for supervised jobs. environment: None for jobs without one; `turns` goes on with its conversations.
    """

    training: RowStore[Examples]
    validation: RowStore[Examples]
    validation_rows: int
    sampler: Sampler
    total_steps: int
    notes: Sequence[str]
    grader: Grader | None
    environment: Environment | None = None
    turns: ChatTurns | None = None

    async def batch(self, step: int) -> Examples:
        """The examples of step `step`, from 1, where every row comes once per epoch."""
        return await self.of_rows(self.sampler.batch(step - 1))

    async def of_rows(self, indices: Sequence[int]) -> Examples:
        """The examples of these training rows."""
        return _flatten(await self.training.read(indices))

    async def held_out(self) -> Examples:
        """The examples of the validation rows."""
        return _flatten(await self.validation.read())

    async def held_out_portions(self) -> AsyncIterator[Examples]:
        """The examples of the validation rows, as many rows at a time as have PORTION_TOKENS when padded."""
        portion: Examples = []
        longest = 0
        for index in range(len(self.validation)):
            examples = _flatten(await self.validation.read([index]))
            portion += examples
            longest = max(longest, *(len(one.prompt) + len(one.completion) for one in examples))
            if len(portion) * longest >= PORTION_TOKENS:
                yield portion
                portion, longest = [], 0
        if portion:
            yield portion


@asynccontextmanager
async def open_job_data(
    job: ClaimedJob, gateway: GatewayClient, tools: GraderTools, chat: ChatTokens, max_step_tokens: int | None
) -> AsyncIterator[JobData]:
    """The data of `job`, every row checked; usable as long as the block runs.

    max_step_tokens: the most that a step reads, or an evaluation whose rows are read at once; None: not checked.

    Raises BadRequest for what cannot be trained on; for a row that is a DataError with its line.
    """
    _check_integrations(job)
    tools = tools.on_behalf_of(job.tenant, {ORGANIZATION_HEADER: job.tenant})
    config, grader, variables = job.config, None, frozenset[Any]()
    environment, turns = None, ChatTurns(chat)
    if isinstance(config, RewardedConfig):
        method, param = job.method[config.method], f"method.{config.method}"
        spec = parse_spec(method["grader"], f"{param}.grader", is_new=False)
        await tools.check(spec, f"{param}.grader")
        grader, variables = tools.build(spec, f"{param}.grader"), spec.item_variables()
        if "environment" in method:
            param = f"{param}.environment"
            named = parse_environment(method["environment"], param)
            environment = Environment(named, tools.endpoints_for(named.url, param), job.tenant)

    def rows(file: BinaryIO, param: str, seen: SeenRows) -> RowStore[Examples]:
        def checked() -> Iterator[Row]:
            for row in read_rows(file, config.method, variables=variables, param=param):
                seen.add(_examples(row, config, chat, param, max_step_tokens), chat)
                seen.add_item(row.item, variables)
                if environment is not None:
                    turns.check(row, param)
                yield row

        def make(line: int, text: bytes) -> Examples:
            return _examples(read_row(line, text, config.method, DataLimits()), config, chat, param, max_step_tokens)

        return RowStore.of(file, checked(), make)

    await gateway.check_disk(job.tenant, [one for one in (job.training_file, job.validation_file) if one is not None])
    async with AsyncExitStack() as files:
        file = await files.enter_async_context(gateway.file(job.tenant, job.training_file))
        trained = tested = SeenRows()
        training = await asyncio.to_thread(rows, file, "training_file", trained)
        if job.validation_file is not None:
            file = await files.enter_async_context(gateway.file(job.tenant, job.validation_file))
            tested = SeenRows()
            validation = await asyncio.to_thread(rows, file, "validation_file", tested)
        else:
            kept, held_out = split(len(training), config.validation_fraction, job.seed)
            training, validation = training.only(kept), training.only(held_out)
            trained, tested = trained.split(kept, held_out)
        sampler = Sampler(len(training), config.batch_size, job.seed)
        if max_step_tokens is not None:
            check_rows(trained.tokens, config.batch_size, "batch_size", "a step", max_step_tokens)
            if isinstance(config, RewardedConfig):
                tests = min(config.eval_rows, len(validation))
                check_rows(tested.tokens, tests, "eval_rows", "an evaluation", max_step_tokens)
        yield JobData(
            training=training,
            validation=_subsample(validation, config.eval_rows, job.seed),
            validation_rows=len(validation),
            sampler=sampler,
            total_steps=total_steps(config, sampler),
            notes=notes(trained, tested),
            grader=grader,
            environment=environment,
            turns=turns,
        )


def total_steps(config: AnyConfig, sampler: Sampler) -> int:
    """The steps of a job whose training rows `sampler` draws from."""
    if config.epochs == "auto":
        return config.max_steps or max(sampler.steps(config.AUTO_EPOCHS), AUTO_STEPS)
    steps = sampler.steps(config.epochs)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def wandb_settings(job: ClaimedJob) -> Mapping[str, Any] | None:
    """The job's settings for Weights & Biases, None without."""
    return next((one["wandb"] for one in job.integrations if one.get("type") == "wandb"), None)


def _check_integrations(job: ClaimedJob) -> None:
    if wandb_settings(job) is not None and importlib.util.find_spec("wandb") is None:
        raise BadRequest(
            "integrations asks for Weights & Biases, which is not installed where jobs are trained; leave it out, or "
            "have the operator install the package wandb",
            param="integrations",
            code="unsupported_integration",
        )


def _examples(row: Row, config: AnyConfig, chat: ChatTokens, param: str, max_step_tokens: int | None) -> Examples:
    if isinstance(config, RewardedConfig):
        prompt = chat.prompt(row, config.max_completion_tokens, param)
        return [Example(row.line, prompt, (), row.item, row.messages, row.tools)]
    return [
        Example(row.line, prompt, answer, row.item) for prompt, answer in chat.examples(row, param, max_step_tokens)
    ]


def _subsample(rows: RowStore[Examples], most: int, seed: int) -> RowStore[Examples]:
    if len(rows) <= most:
        return rows
    return rows.only(sorted(Sampler(len(rows), most, seed).batch(0)))


def _flatten(rows: Sequence[Examples]) -> Examples:
    return [example for examples in rows for example in examples]
