"""Which training workers a server starts by itself: how many of each kind, for which jobs, and by which command.

own_workers.py runs them. They read the same model, factors, tokenizer and chat template as the server, and reach it
past proxies.
"""

from __future__ import annotations

import os
import secrets
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from pydantic import SecretStr

from adapters.factors.quantised import is_factors_file, is_quantised
from server.auth.middleware import Mode
from server.core.settings import Settings
from server.launch.gpu_plan import WorkerGpus
from server.launch.own_workers import LOOPBACK, OwnWorkers
from server.training.jobs.config import GRADIENT_METHODS, METHODS, Method

NICE = 10


def with_worker_key(settings: Settings, mode: Mode) -> Settings:
    """`settings` with a key for the own workers, where the server asks for keys and has none for them."""
    if mode == "open" or settings.worker_key is not None:
        return settings
    return settings.model_copy(update={"worker_key": SecretStr(secrets.token_hex(32))})


def own_workers(
    settings: Settings,
    mode: Mode,
    model: str,
    url: str | None,
    factors: str,
    chat_template: str | None = None,
    tokenizer: str | None = None,
    gpus: Sequence[WorkerGpus] = (),
) -> OwnWorkers:
    """Those of a server that listens on `url`; none where that is None. They write messages by the same
    `chat_template`, a file or the template itself, and with the same `tokenizer` as the server does. `gpus`: the place
    of each.

    model: whose weights they load. They leave evolution to those that have none, where there are any.
    """
    methods = GRADIENT_METHODS if settings.evolution_workers else METHODS
    command = _command(settings, model, url, methods, chat_template, tokenizer)
    if settings.factors_from is not None and is_factors_file(settings.factors_from):
        command += ["--factors-from", settings.factors_from]
    count = settings.training_workers if url else 0
    return OwnWorkers(count, command, _key(settings, mode), factors, gpus=gpus, methods=methods, direct=_direct(url))


def evolution_workers(
    settings: Settings,
    mode: Mode,
    model: str,
    url: str | None,
    factors: str,
    chat_template: str | None = None,
    tokenizer: str | None = None,
) -> OwnWorkers:
    """Those without weights; arguments as for `own_workers`, but `model` is the one that is served."""
    methods: Sequence[Method] = ("evolution",)
    command = _command(settings, model, url, methods, chat_template, tokenizer)
    if settings.factors_from is not None:
        command += ["--factors-from", settings.factors_from]
    count = settings.evolution_workers if url else 0
    return OwnWorkers(count, command, _key(settings, mode), factors, methods=methods, direct=_direct(url))


def methods_of(workers: Iterable[OwnWorkers]) -> frozenset[Method]:
    """Of the jobs that these do."""
    return frozenset(method for one in workers if one.count for method in one.methods)


def _key(settings: Settings, mode: Mode) -> str | None:
    return None if mode == "open" or settings.worker_key is None else settings.worker_key.get_secret_value()


def _direct(url: str | None) -> tuple[str, ...]:
    """This machine's names, and the address of it that the server listens on."""
    return (*LOOPBACK, *filter(None, [urlsplit(url or "").hostname]))


def _command(
    settings: Settings,
    model: str,
    url: str | None,
    methods: Sequence[Method],
    chat_template: str | None,
    tokenizer: str | None,
) -> list[str]:
    # Not what is in the directory that the server was started from: there may be another package `server` in it.
    command = [sys.executable, "-P", "-m", "server.launch.cli", "worker", "--url", url or "", "--model", model]
    command += ["--log-dir", settings.training_log_dir, "--nice", str(NICE), "--parent", str(os.getpid())]
    command += [f"--method={method}" for method in methods]
    given = {"--chat-template": chat_template, "--tokenizer": tokenizer}
    return command + [part for flag, value in given.items() if value is not None for part in (flag, value)]


def trained_model(args: Namespace, settings: Settings) -> str | None:
    """The model whose weights the server's own workers load: that of vLLM's `args`, or the original of a quantised one.

    None when it starts none that load any: without any wanted, where they cannot reach it (TLS, a socket file), and
    where the original of a quantised model is known by its factors alone.
    """
    if not settings.training_workers or args.uds or args.ssl_certfile:
        return None
    original = settings.factors_from
    if original is not None and not is_factors_file(original):
        return original
    served: str = args.model
    return None if is_quantised(served) else served


def reachable(address: str) -> str | None:
    """Where this machine reaches a server that listens on `address`; None for a socket file or with TLS, whose
    certificate need not be one for this machine: there, workers are started by hand."""
    if not address.startswith("http://"):
        return None
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
