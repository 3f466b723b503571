"""vLLM's command line flags, and the few defaults of them that differ here.

vLLM's own argument parser reads every flag that is not ours, so each works as its documentation says. Only the defaults
that per-request adapters need are changed.
"""

from __future__ import annotations

import importlib.util
import os
from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from vllm import envs
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from adapters.factors.factors import Factors
from adapters.vllm.plugin import adapter_options
from server.api.middleware.root_path import checked_root_path
from server.engine.tools import check_tool_flags, leave_tools_open
from server.launch.cpu_defaults import set_cpu_defaults
from server.launch.media_connector import guard_media
from server.launch.start_checks import INSTALL_RAY, CannotStart
from server.observability.trace_export import tell_vllm, trace_target

# Long enough for a running answer to end; vLLM's own default aborts it at once.
SHUTDOWN_TIMEOUT_S = 60
_UNKNOWN = "unrecognized arguments: "


class _Flags(FlexibleArgumentParser):
    """vLLM's parser, whose errors begin with all 200 lines of its usage."""

    def print_usage(self, file: Any = None) -> None:
        """Nothing: a sentence says more."""

    def error(self, message: str) -> NoReturn:
        if message.startswith(_UNKNOWN):
            known = [flag for action in self._actions for flag in action.option_strings]
            sent = [word.partition("=")[0] for word in message.removeprefix(_UNKNOWN).split() if word.startswith("--")]
            meant = [match for flag in sent for match in get_close_matches(flag, known, n=1)]
            message += f"; did you mean {' '.join(meant)}?" if meant else "; see `vllm serve --help`"
        super().error(message)
        raise SystemExit(2)  # which that has done


def parse_vllm_args(model: str, vllm_flags: Sequence[str]) -> Namespace:
    """vLLM's serve flags for `model`. Exits with vLLM's own message where a flag is wrong.

    One attribute is added, `memory_is_given`: whether the user says how much of a GPU the engine takes.
    """
    cli_env_setup()
    parser = make_arg_parser(_Flags(prog="tinylora serve"))
    parser.set_defaults(scheduling_policy="priority")  # so that requests may ask to come after others
    parser.set_defaults(enable_prompt_tokens_details=True)  # cached_tokens, of the tenant's own cache
    parser.set_defaults(gpu_memory_utilization=None, shutdown_timeout=None)
    leave_tools_open(parser)
    args = parser.parse_args([model, *vllm_flags])
    args.model = args.model_tag
    args.memory_is_given = not (args.gpu_memory_utilization is None and args.kv_cache_memory_bytes is None)
    if args.gpu_memory_utilization is None:
        args.gpu_memory_utilization = EngineArgs.gpu_memory_utilization
    check_tool_flags(args, parser)
    if args.api_server_count not in (None, 1) or args.headless or args.grpc:
        parser.error("tinylora serves one HTTP API process; leave out --api-server-count, --headless and --grpc")
    if args.enable_lora or args.lora_modules:
        parser.error("tinylora takes the place of vLLM's own LoRA; leave out --enable-lora and --lora-modules")
    if (wrong := why_no_revision(args, model) or why_no_tokenizer_revision(args, model)) is not None:
        parser.error(wrong)
    if envs.VLLM_ENABLE_RESPONSES_API_STORE:
        parser.error("stored responses can be read with their id by any tenant; unset VLLM_ENABLE_RESPONSES_API_STORE")
    if args.served_model_name is None and Path(model).is_dir():
        args.served_model_name = [Path(model).resolve().name]
    if args.shutdown_timeout is None:
        args.shutdown_timeout = SHUTDOWN_TIMEOUT_S
    if current_platform.is_cpu():
        set_cpu_defaults(args)
    try:
        validate_parsed_serve_args(args)
        args.root_path = checked_root_path(args.root_path)
        guard_media(args, os.environ)
        tell_vllm(trace_target(args.otlp_traces_endpoint, os.environ), args, os.environ)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return args


def why_no_revision(args: Namespace, model: str) -> str | None:
    """Why the engine would read another revision of `model` than everything else. None: it would not."""
    if Path(model).is_dir():
        return None
    for flag, revision, whose in (
        ("revision", args.revision, "the factors would be of another revision of the model, and training workers"),
        ("code-revision", args.code_revision, "training workers"),
    ):
        if revision is not None:
            return (
                f"--{flag} {revision} holds for the engine alone: {whose} would load the newest one. Leave it out and "
                f"serve a directory: `hf download {model} --revision {revision} --local-dir DIRECTORY`"
            )
    return None


def why_no_tokenizer_revision(args: Namespace, model: str) -> str | None:
    """Why the engine would read another revision of its tokenizer than training workers. None: it would not."""
    tokenizer, revision = args.tokenizer or model, args.tokenizer_revision
    if revision is None or Path(tokenizer).is_dir():
        return None
    return (
        f"--tokenizer-revision {revision} holds for the engine alone: training workers would load the newest one. "
        f"Leave it out and give a directory: `hf download {tokenizer} --revision {revision} --local-dir DIRECTORY`, "
        "--tokenizer DIRECTORY"
    )


def check_delta(delta: str) -> None:
    """CannotStart for a way to compute the delta that this machine has no kernel for."""
    if delta == "kernel" and not current_platform.is_cuda_alike():
        raise CannotStart(
            "TINYLORA_DELTA is kernel, a Triton kernel, which needs a CUDA GPU; leave it out, or set it to auto."
        )


def check_ray(args: Namespace) -> None:
    """CannotStart where vLLM is to run on Ray and cannot: it places engine processes by the GPUs of a Ray cluster."""
    wants = {
        "--distributed-executor-backend ray": args.distributed_executor_backend == "ray",
        "--data-parallel-backend ray": args.data_parallel_backend == "ray",
    }
    flag = next((flag for flag, is_wanted in wants.items() if is_wanted), None)
    if flag is None:
        return
    if not current_platform.ray_device_key:
        raise CannotStart(
            f"{flag}: vLLM runs on Ray with GPUs only, and this is its build for {current_platform.device_type}. Leave "
            "it out: on one machine vLLM starts the processes of --tensor-parallel-size by itself."
        )
    if importlib.util.find_spec("ray") is None:
        raise CannotStart(f"{flag} needs Ray, which is not installed: {INSTALL_RAY}.")


def enable_adapters(args: Namespace, factors: Factors, delta: str) -> None:
    """Switch per-request TinyLoRA on in vLLM's arguments."""
    options = adapter_options(factors, delta)
    options["additional_config"] = {**(args.additional_config or {}), **options["additional_config"]}
    compilation = options.pop("compilation_config", {}).get("inductor_compile_config", {})
    for name, value in compilation.items():
        args.compilation_config.inductor_compile_config.setdefault(name, value)
    vars(args).update(options)


def take_api_keys(args: Namespace, environment_key: str | None) -> list[str]:
    """The keys of --api-key, else of VLLM_API_KEY, out of vLLM's arguments: vLLM then does not check keys itself."""
    keys = [key for key in (args.api_key or [environment_key]) if key]
    # Not None, for which vLLM would look into the environment.
    args.api_key = [""]
    return keys
