"""The data of one job: its files, read and checked row by row, split, and tokenised.

Design decision: a job is validated by the code that reads its data for training, and a row that the base model cannot
take is refused with its line like one that is not JSON. Nothing here needs the model, only its tokenizer.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from server.errors import BadRequest
from server.job_config import ReinforcementConfig, TrainingConfig
from server.training.chat_tokens import ChatTokens
from server.training.dataset import Row, Sampler, read_rows, split
from server.training.gateway_client import TENANT_HEADER, GatewayClient
from server.training.graders.build import GraderTools, parse_spec
from server.training.graders.grade import Grader
from server.worker_protocol import ClaimedJob

GRADER_PARAM = "method.reinforcement.grader"


@dataclass(frozen=True, slots=True)
class Example:
    """A row as tokens: `completion` is empty where it is to be sampled. `item` is what its grader is given."""

    line: int
    prompt: Sequence[int]
    completion: Sequence[int]
    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobData:
    """`training` in the order of the file; `validation` as it is evaluated, at most `eval_rows`.

    grader: None for supervised jobs. validation_rows: before that limit.
    """

    training: Sequence[Example]
    validation: Sequence[Example]
    validation_rows: int
    sampler: Sampler
    total_steps: int
    grader: Grader | None


async def load(job: ClaimedJob, gateway: GatewayClient, tools: GraderTools, chat: ChatTokens) -> JobData:
    """The data of `job`. Raises BadRequest (a DataError with its line, most often) for what cannot be trained on."""
    _check_integrations(job)
    tools = tools.on_behalf_of({TENANT_HEADER: job.tenant})
    config, grader, variables = job.config, None, frozenset[Any]()
    if isinstance(config, ReinforcementConfig):
        spec = parse_spec(job.method["reinforcement"]["grader"], GRADER_PARAM)
        await tools.check(spec, GRADER_PARAM)
        grader, variables = tools.build(spec, GRADER_PARAM), spec.item_variables()

    def read(file: BinaryIO, param: str) -> list[Example]:
        return [
            _example(row, config, chat, param)
            for row in read_rows(file, config.method, variables=variables, param=param)
        ]

    async with gateway.file(job.tenant, job.training_file) as file:
        training = await asyncio.to_thread(read, file, "training_file")
    if job.validation_file is not None:
        async with gateway.file(job.tenant, job.validation_file) as file:
            validation = await asyncio.to_thread(read, file, "validation_file")
    else:
        kept, held_out = split(len(training), config.validation_fraction, job.seed)
        training, validation = [training[index] for index in kept], [training[index] for index in held_out]
    sampler = Sampler(len(training), config.batch_size, job.seed)
    steps = sampler.steps(config.epochs)
    return JobData(
        training=training,
        validation=_some(validation, config.eval_rows, job.seed),
        validation_rows=len(validation),
        sampler=sampler,
        total_steps=steps if config.max_steps is None else min(steps, config.max_steps),
        grader=grader,
    )


def wandb_settings(job: ClaimedJob) -> Mapping[str, Any] | None:
    """What the job says about Weights & Biases, if it asks for it."""
    return next((one["wandb"] for one in job.integrations if one.get("type") == "wandb"), None)


def _check_integrations(job: ClaimedJob) -> None:
    if wandb_settings(job) is not None and importlib.util.find_spec("wandb") is None:
        raise BadRequest(
            "integrations asks for Weights & Biases, which is not installed where jobs are trained; leave it out, or "
            "have the operator install the package wandb",
            param="integrations",
            code="unsupported_integration",
        )


def _example(row: Row, config: TrainingConfig, chat: ChatTokens, param: str) -> Example:
    if isinstance(config, ReinforcementConfig):
        return Example(row.line, chat.prompt(row, config.max_completion_tokens, param), (), row.item)
    prompt, completion = chat.example(row, param)
    return Example(row.line, prompt, completion, row.item)


def _some(examples: list[Example], most: int, seed: int) -> list[Example]:
    if len(examples) <= most:
        return examples
    return [examples[index] for index in sorted(Sampler(len(examples), most, seed).batch(0))]
