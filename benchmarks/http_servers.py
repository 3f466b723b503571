"""This server and vLLM's own OpenAI server as processes, to be measured from outside, with the same flags."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch

from server.core.cpu_features import computes_bfloat16

START_TIMEOUT_S = 900
VLLM, OURS = "vLLM's own server", "tinylora serve"


@dataclass(frozen=True, slots=True)
class Server:
    """`pid` is of the process that answers; engines are other ones."""

    url: str
    pid: int


def best_dtype() -> str:
    """What `tinylora serve` would choose, so that vLLM's own server can be given the same."""
    return "auto" if torch.cuda.is_available() or computes_bfloat16() else "float32"


def same_flags(dtype: str, most: int, *, eager: bool = False) -> list[str]:
    """Flags of vLLM that both servers get; `most` requests run at once."""
    return [
        "--served-model-name", "base", "--dtype", dtype, "--max-model-len", "512", "--max-num-seqs", str(most),
        "--max-num-batched-tokens", "512", "--kv-cache-memory-bytes", str(1 << 30), "--no-enable-prefix-caching",
        *(["--enforce-eager"] if eager else []),
    ]  # fmt: skip


def vllm_server(model: str, flags: Sequence[str]) -> contextlib.AbstractContextManager[Server]:
    return serving(VLLM, ["-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags])


def tinylora_server(model: str, flags: Sequence[str]) -> contextlib.AbstractContextManager[Server]:
    return serving(OURS, ["-m", "server.launch.cli", "serve", model, *flags])


@contextlib.contextmanager
def serving(name: str, command: Sequence[str]) -> Iterator[Server]:
    """Runs a server at a port of its own, and ends it; the process ends where it does not start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(f"... {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as output:
        environment = {
            **os.environ,
            "VLLM_LOGGING_LEVEL": "WARNING",
            "TINYLORA_DATABASE_URL": f"sqlite:///{Path(directory)}/adapters.db",
        }
        process = subprocess.Popen(
            [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if not started(process, url):
                output.seek(0)
                sys.exit(f"{name} did not start:\n{output.read().decode(errors='replace')}")
            yield Server(url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def started(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return True
        time.sleep(0.5)
    return False
