"""`tinylora worker`: trains the jobs of a server, here or on another machine.

Like cli.py it imports what it needs when it runs.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from clients.cli.calls import fail, say

LOG_DIR = Path("data/tensorboard")
MOST_GIB = 2**20
# Options that say how workers are run; a key is not for lists of processes.
NOT_THE_WORKERS = ("ray", "ray_address", "ray_workers", "ray_cpus", "ray_gpus", "key", "parent", "name")


class Method(StrEnum):
    """The methods of jobs (training.jobs.config.Method), as typer takes several of them: only of an enumeration."""

    reinforcement = "reinforcement"
    supervised = "supervised"
    evolution = "evolution"


def worker(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="TINYLORA_URL", help="The server")] = "http://localhost:8000",
    key: Annotated[
        str | None,
        typer.Option(envvar="TINYLORA_WORKER_KEY", help="Its key; default: TINYLORA_ADMIN_KEY", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model it serves; default: embedded")] = None,
    factors_from: Annotated[
        str | None, typer.Option(help="What the server has its factors from (TINYLORA_FACTORS_FROM), or their file")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="The server's --chat-template, if it was started with one", show_default=False)
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The server's --tokenizer, if it was started with one", show_default=False)
    ] = None,
    method: Annotated[
        list[Method] | None, typer.Option(help="Of the jobs it does; may be repeated. Evolution needs no weights")
    ] = None,
    max_jobs: Annotated[int, typer.Option(min=1, max=64, help="Jobs trained together")] = 4,
    log_dir: Annotated[Path, typer.Option(help="Where TensorBoard finds the curves of jobs")] = LOG_DIR,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What to train on")] = "auto",
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests for completions at a time")] = 128,
    pass_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens in a pass, if so many fit")] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=MOST_GIB, help="Most memory it takes of its device, or of each GPU; default: what is free"
        ),
    ] = None,
    nice: Annotated[int, typer.Option(min=0, max=19, help="Give way to other processes, as nice(1)")] = 0,
    ray: Annotated[bool, typer.Option("--ray", help="Run workers on the nodes of a Ray cluster")] = False,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="Of the cluster; auto: the one this machine is part of")
    ] = "auto",
    ray_workers: Annotated[int, typer.Option(min=1, max=1024, help="How many, spread over the nodes")] = 1,
    ray_cpus: Annotated[float, typer.Option(min=0, max=1024, help="CPUs that Ray keeps for each")] = 1,
    ray_gpus: Annotated[float, typer.Option(min=0, max=64, help="GPUs that Ray keeps for each, which sees these")] = 0,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    name: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train the jobs of a server, until SIGTERM. Several workers share the jobs.

    With --ray they run on the nodes of a Ray cluster, and on others when a node dies; the other options are theirs.
    """
    if ray:
        _run_on_ray(context, url, key, ray_address, ray_workers, ray_cpus, ray_gpus)
        return
    for option in ("ray_address", "ray_workers", "ray_cpus", "ray_gpus"):
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter("it is for workers on Ray: add --ray", param_hint=f"--{option.replace('_', '-')}")
    os.nice(nice)
    # Before torch is there, which reads it. Threads that wait by spinning take the cores that the engine is on, and
    # their own partner's: beside other work an update took 29 s with them and 15 s without.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # On a GPU passes of all lengths follow each other: without it, freed memory is left in pieces that fit none.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

    from pydantic import ValidationError

    from server.core.host_memory import GIB
    from server.core.settings import Settings
    from server.core.settings_errors import explain
    from server.launch.embedded_model import ensure_embedded_model
    from server.launch.start_checks import CannotStart
    from server.launch.torch_device import torch_device

    try:
        chosen = torch_device(device)
        settings = Settings() if factors_from is None else Settings(factors_from=factors_from)
        base_model = model or str(ensure_embedded_model(progress=say))
        from adapters.vector.errors import AdapterError
        from server.training.jobs.config import METHODS
        from server.training.worker.main import WorkerOptions, run_worker
    except ValidationError as error:
        fail(explain(error))
    except CannotStart as error:
        fail(str(error))
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key is not None else None
    options = WorkerOptions(
        url=url,
        key=key or admin_key,
        model=base_model,
        chat_template=chat_template,
        tokenizer=tokenizer,
        max_jobs=max_jobs,
        concurrency=concurrency,
        pass_tokens=pass_tokens,
        memory_limit=None if memory_gib is None else int(memory_gib * GIB),
        device=chosen,
        log_dir=log_dir,
        parent=parent,
        name=name,
        methods=tuple(one.value for one in method) if method else METHODS,
    )
    try:
        run_worker(settings, options)
    except AdapterError as error:
        fail(str(error))


def _run_on_ray(
    context: typer.Context, url: str, key: str | None, address: str, count: int, cpus: float, gpus: float
) -> None:
    from server.launch.ray_workers import RayOptions, ray_environment, run_ray_workers
    from server.launch.start_checks import CannotStart

    if gpus > 1 and gpus % 1:
        raise typer.BadParameter("above 1, Ray gives whole GPUs only", param_hint="--ray-gpus")
    environment = ray_environment() | ({} if key is None else {"TINYLORA_WORKER_KEY": key})
    options = RayOptions(address=address, count=count, cpus=cpus, gpus=gpus)
    try:
        run_ray_workers(
            options,
            url,
            ["worker", *_worker_flags(context)],
            environment,
            lambda line: say(f"ray: {line}"),
        )
    except CannotStart as error:
        fail(str(error))


def _worker_flags(context: typer.Context) -> list[str]:
    """All options that this command has been given, or has by default, as flags."""
    flags = []
    for option in context.command.params:
        given = context.params.get(option.name or "")
        if option.name in NOT_THE_WORKERS or given is None:
            continue
        for value in given if isinstance(given, list | tuple) else [given]:
            flags += [option.opts[0], str(value.value if isinstance(value, Method) else value)]
    return flags
