"""The process `tinylora worker`: loads the tokenizer, makes the clients, runs the loop, and stops on signals.

The model's weights are read when the first job is trained that needs a gradient, so a worker without such work costs
the memory of its imports. On a GPU the base model is bfloat16, as it is served; on a CPU float32, which most CPUs
compute faster. Vectors are float32 everywhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx
import torch
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from adapters.factors.model_directory import locate_model
from adapters.factors.quantised import is_quantised, served_factors
from adapters.vector.errors import FactorsError
from server.core.cpu_features import computes_bfloat16
from server.core.settings import Settings
from server.observability.logging import configure_logging
from server.training.graders.tools import client_of_this_server, grader_tools
from server.training.jobs.config import METHODS, Method, needs_weights
from server.training.jobs.worker_name import new_worker_name
from server.training.worker.base_model import check_logits, end_tokens
from server.training.worker.context import WorkerTools
from server.training.worker.device_memory import CudaMemory, device_memory
from server.training.worker.gateway_client import GatewayClient
from server.training.worker.loop import Worker
from server.training.worker.pass_size import PassLimits
from server.training.worker.placement import load_model
from server.training.worker.rollout import RolloutClient
from server.training.worker.trainer import Trainer

# Longer passes are no faster.
PASS_TOKENS = {"cuda": 2**14, "cpu": 2**10}
# A rollout may wait behind everyone else's requests.
ROLLOUT_TIMEOUT_S = 900.0
CONNECT_TIMEOUT_S = 10.0
# For a judge that is this server: retries are up to 8 s apart, so they last as long as a server takes to restart.
JUDGE_RETRIES = 60


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The command line of a worker.

    key: None on a server without keys. chat_template: a file, or the template itself; None: the tokenizer's own.
    tokenizer: a directory or hub id; None: the model's own.
    concurrency: requests for completions at a time. pass_tokens: most tokens in one pass, if they fit; None: by device.
    memory_limit: most bytes of the device's memory, or of each GPU's, that it takes; None: what is free there.
    parent: id of the process to end with, if any. methods: of the jobs that it does. name: of this process alone; None:
    one is made.
    """

    url: str
    key: str | None
    model: str
    chat_template: str | None = None
    tokenizer: str | None = None
    max_jobs: int = 4
    concurrency: int = 128
    pass_tokens: int | None = None
    memory_limit: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    log_dir: Path | None = None
    parent: int | None = None
    methods: Sequence[Method] = METHODS
    name: str | None = None


def run_worker(settings: Settings, options: WorkerOptions) -> None:
    """Work until SIGTERM or SIGINT. FactorsError for a model that is quantised, or whose factors cannot be had."""
    configure_logging(settings)
    if not needs_weights(options.methods):
        options = replace(options, device="cpu", memory_limit=None)
    elif is_quantised(options.model):
        raise FactorsError(
            f"{options.model} is quantised, and gradients are of original weights: --model ORIGINAL (or only "
            "--method evolution)"
        )
    # On its GPU, as a gateway does: whichever comes first builds them, and the other waits.
    factors = served_factors(
        options.model,
        settings.factors_from,
        rank=settings.factors_rank,
        kind=settings.factors_kind,
        device=options.device,
    )
    asyncio.run(_run(settings, options, factors))


async def _run(settings: Settings, options: WorkerOptions, factors: Factors) -> None:
    console = Console(stderr=True)

    def log(line: str) -> None:
        console.print(f"worker: {line}", highlight=False, markup=False, soft_wrap=True)

    async with worker_tools(settings, options, factors, log) as tools:
        name = options.name or new_worker_name()
        worker = Worker(name, tools, log, options.methods, max_jobs=options.max_jobs)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stopping.set)
        watching = loop.create_task(_stop_with_parent(options.parent, worker.stopping))
        how = ", ".join(options.methods) + ("" if needs_weights(options.methods) else ", without its weights")
        log(f"{name} trains adapters of {factors.base_model} for {options.url}: {how}")
        try:
            await worker.run()
        finally:
            watching.cancel()
        log("ended")


@asynccontextmanager
async def worker_tools(
    settings: Settings, options: WorkerOptions, factors: Factors, log: Any
) -> AsyncIterator[WorkerTools]:
    """The tools of a worker, closed behind the block. `log` is called with a line when something takes long."""
    directory = locate_model(options.model)
    source = directory if Path(options.model).expanduser().is_dir() else options.model
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or source)
    if options.chat_template is not None:
        tokenizer.chat_template = _template_text(options.chat_template)
    config = AutoConfig.from_pretrained(directory)
    # As the engine has them.
    dtype = torch.bfloat16 if options.device == "cuda" or computes_bfloat16() else torch.float32
    limits = PassLimits(tokens=options.pass_tokens or PASS_TOKENS[options.device])
    memory = device_memory(options.device, options.memory_limit)

    def load() -> TrainableAdapters:
        log(f"reading the weights of {factors.base_model} for {options.device}")
        model = load_model(directory, config, dtype, memory)
        if isinstance(memory, CudaMemory) and len(memory.gpus) > 1:
            log(f"they are spread over {memory.name}")
        check_logits(model)
        return TrainableAdapters(model, factors)

    this_server = client_of_this_server(
        options.url, options.key or "unused", timeout=ROLLOUT_TIMEOUT_S, max_retries=JUDGE_RETRIES
    )
    trainer, graders = Trainer(load, limits, memory), grader_tools(settings, this_server)
    headers = {} if options.key is None else {"Authorization": f"Bearer {options.key}"}
    timeout = httpx.Timeout(ROLLOUT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    pool = httpx.Limits(max_connections=options.concurrency + 8)
    try:
        async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=timeout, limits=pool) as http:
            yield WorkerTools(
                base_model=factors.base_model,
                factors=factors.digest,
                gateway=GatewayClient(http, report=log),
                trainer=trainer,
                rollouts=RolloutClient(http, concurrency=options.concurrency),
                graders=graders,
                tokenizer=tokenizer,
                max_tokens=config.get_text_config().max_position_embeddings,
                end_tokens=end_tokens(source, config),
                log_dir=options.log_dir,
            )
    finally:
        trainer.close()
        await graders.close()
        if graders.judge is not None:
            await graders.judge.close()


def _template_text(template: str) -> str:
    """The template that `--chat-template` gives: a text with braces is the template, any other names a file."""
    return template if "{" in template else Path(template).read_text()


async def _stop_with_parent(parent: int | None, stopping: asyncio.Event) -> None:
    while parent is None or os.getppid() == parent:
        await asyncio.sleep(1)
    stopping.set()
