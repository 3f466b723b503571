"""What is asked of the machine and told to the operator between the command line and the server's first request."""

from __future__ import annotations

import os
import shlex
import shutil
from argparse import Namespace
from pathlib import Path

from sqlalchemy.engine import make_url
from vllm import envs
from vllm.platforms import current_platform
from vllm.utils.import_utils import import_pynvml

from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.factors.model_directory import locate_model
from adapters.factors.model_files import read_model
from adapters.factors.quantised import is_factors_file
from clients.cli.calls import say
from server.auth.middleware import Mode
from server.core.host_memory import GIB
from server.core.settings import Settings
from server.core.settings_urls import without_password
from server.launch.adapter_support import what_is_left_out
from server.launch.compiler import why_not_compile
from server.launch.gpu_facts import VISIBLE_VARIABLE, gpu_facts, order_as_nvml, visible_gpus
from server.launch.gpu_plan import WorkerGpus, plan_gpus
from server.launch.settings_findings import unknown_settings
from server.launch.start_checks import (
    CACHE_BYTES,
    DATA_BYTES,
    CannotStart,
    Place,
    check_disk,
    check_memory,
    gb,
    memory_needed,
)


def check_machine(args: Namespace, settings: Settings) -> None:
    """Look whether this machine can serve with vLLM's `args`; say what it takes, and where things go.

    Switches compilation off in `args`, with a warning, where it is not possible. CannotStart.
    """
    on_cpu = current_platform.is_cpu()
    cache = Path(envs.VLLM_CACHE_ROOT)
    if "://" in settings.files_url:
        data = Place(Path(), DATA_BYTES, "start the server in another directory")
    else:
        data = Place(Path(settings.files_url), DATA_BYTES, "set TINYLORA_FILES_URL to another directory")
    check_disk(Place(cache, CACHE_BYTES, "set VLLM_CACHE_ROOT to another directory"), data)
    for unknown, advice in unknown_settings(os.environ):
        say(f"==> {unknown} is no setting, and has no effect: {advice}", "yellow")
    memory = ""
    if on_cpu:
        kv_cache = args.kv_cache_memory_bytes or _kv_cache_space()
        needed = memory_needed(args.model, kv_cache, as_float32=args.dtype in ("float32", "float"))
        memory = f" takes at least {gb(needed)} of memory ({gb(check_memory(needed))} available)"
    name = Path(args.model).name
    say(f"==> {name}{memory or f' on {current_platform.device_name}'}. What is kept, and where:")
    for what, where in (
        ("adapters, jobs, usage", _place_of(settings.database_url)),
        ("files", without_password(settings.files_url)),
        ("the compiled model", cache),
        ("what engine and workers print", settings.engine_log if settings.engine_log != "-" else "this output"),
    ):
        say(f"      {what}: {where}")
    if args.enforce_eager or args.optimization_level == 0:
        return
    if not on_cpu and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise CannotStart("Triton compiles with a C compiler, and there is none: apt-get install gcc python3-dev.")
    if on_cpu and (missing := why_not_compile()) is not None:
        args.enforce_eager = True
        # vLLM has small functions that it compiles in any mode; the engine's processes inherit this.
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
        say(f"==> The model runs uncompiled and some 15 % slower: {missing}.", "yellow")


def share_gpus(args: Namespace, settings: Settings, model: str, trained: str | None) -> tuple[WorkerGpus, ...]:
    """Decide what of the GPUs is the engine's and what the workers', say so, and set vLLM's `args` accordingly.

    trained: the model whose weights workers load, None when the server starts none. Returns the place of each worker;
    none without NVIDIA GPUs, or where their memory cannot be told. CannotStart when they do not fit.
    """
    if not current_platform.is_cuda():
        return ()
    order_as_nvml()
    gpus = visible_gpus(import_pynvml(), os.environ.get(VISIBLE_VARIABLE))
    if not gpus:
        return ()
    share = None if settings.worker_gpu_gib == "auto" else settings.worker_gpu_gib
    trained_in = None if trained is None else locate_model(trained)
    plan = plan_gpus(gpu_facts(args, gpus, locate_model(model), trained_in, settings.training_workers, share))
    if plan.utilization is not None:
        args.gpu_memory_utilization = plan.utilization
    say(f"==> {plan.said}")
    if plan.warning is not None:
        say(f"==> {plan.warning}", "yellow")
    return plan.workers


def say_original(args: Namespace, settings: Settings, factors: Factors, trained: str | None) -> None:
    """Say whose factors a quantised model is served with, and what is trained on."""
    if settings.factors_from is None:
        return
    train = "no worker of the server loads weights" if trained is None else f"training is on the weights of {trained}"
    if trained is None and settings.training_workers and is_factors_file(settings.factors_from):
        train += ": that takes the original's weights (tinylora worker --model ORIGINAL --factors-from FILE)"
    served = f"{Path(args.model).name} takes adapters of {factors.base_model} (factors {factors.digest[:12]}...)"
    if factors.scales is not None:
        served += ", whose channels it has scaled"
    say(f"==> {served}; {train}")


def say_who_trains(args: Namespace, settings: Settings, trained: str | None) -> None:
    """Say which jobs the server's own workers do, where they do not do all; `trained` as in `share_gpus`. And that
    workers write messages otherwise than the engine, where a flag of vLLM's has it do that."""
    if args.tokenizer_mode not in ("auto", "hf"):
        say(
            f"==> --tokenizer-mode {args.tokenizer_mode} holds for the engine alone: training workers write messages "
            "by transformers' tokenizer and its chat template. Without it, jobs are trained as requests are served.",
            "yellow",
        )
    if trained is not None:
        return
    sentence = "==> Training: jobs wait for a worker that is started by hand (tinylora worker)"
    if settings.evolution_workers and not args.uds and not args.ssl_certfile:
        sentence += ", but for those of method evolution: they need no weights, and the server has a worker for them"
    say(sentence)


def say_how_secrets_are_stored(settings: Settings) -> None:
    """Say so where tenants' secrets are not sealed in the database."""
    if not settings.sealing_keys:
        say(
            "==> Secrets of webhooks and endpoint graders are stored in clear in the database: TINYLORA_SECRETS_KEY is "
            "not set (`openssl rand -hex 32` makes a good one)"
        )


def say_what_is_adapted(original: str) -> None:
    """Name the parts of a model that adapters leave as they are, if there are any.

    original: the model that the factors are of; nothing is said of a file of factors. FactorsError as `read_model`.
    """
    sentence = None if is_factors_file(original) else what_is_left_out(read_model(locate_model(original)))
    if sentence is not None:
        say(f"==> {sentence}", "yellow")


def say_how_to_try(address: str, model: str, factors: Factors, mode: Mode) -> None:
    """Say where `model` is served, with commands that make a key, where one is needed, and chat with an adapter."""
    count = default_recipe(factors).num_parameters
    url, curl = address.replace("//0.0.0.0:", "//localhost:").replace("//[::]:", "//localhost:"), "curl -s"
    if address.startswith("unix:"):
        url, curl = "http://localhost", f"curl -s --unix-socket {shlex.quote(address.removeprefix('unix:'))}"
    if mode == "open":
        access, key = "Without API keys, and so for this machine only; set TINYLORA_ADMIN_KEY to serve others. ", ""
    else:
        make = f"tinylora keys create default me --scope infer --scope adapters --scope train --url {url}"
        access = (
            "Every request needs an API key; in a terminal that has TINYLORA_ADMIN_KEY, this makes one:\n\n"
            f"  export TINYLORA_API_KEY=$({make})\n\n"
        )
        key = ' -H "Authorization: Bearer $TINYLORA_API_KEY"'
    print(
        f"""
{model} is served on {url if curl == "curl -s" else address}, with an adapter of its own in every request.
{access}To try it:

  python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex("4d3e" * {count}))' > demo.bin  # {2 * count} bytes
  {curl} '{url}/adapters?name=demo'{key} -H 'Content-Type: application/octet-stream' --data-binary @demo.bin
  {curl} {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{{
    "model": "{model}", "adapter": "demo", "max_tokens": 64, "temperature": 0,
    "messages": [{{"role": "user", "content": "Write one sentence about the sea."}}]}}'
""",
        flush=True,
    )


def _kv_cache_space() -> int:
    """Bytes, as vLLM's variable says it."""
    try:
        return (envs.VLLM_CPU_KVCACHE_SPACE or 0) * GIB
    except ValueError as error:
        raise CannotStart(f"VLLM_CPU_KVCACHE_SPACE is to be a whole number, of GiB ({error}).") from error


def _place_of(database_url: str) -> str:
    url = make_url(database_url)
    # Never the URL itself, which may hold a password.
    return str(url.database) if url.drivername.startswith("sqlite") else f"PostgreSQL on {url.host or 'this machine'}"
