"""`tinylora serve` as a user starts it: a process group of its own, over a database that outlives it.

Design decision: a server is killed with its whole group, and the end of its engine is waited for, so that none of it is
left to take the cores from the next one, which listens on the same port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

# Beside the interpreter, not on PATH: the tests also run without an activated environment.
TINYLORA = Path(sys.executable).with_name("tinylora")
# The server is keyed, so that there can be tenants. The admin's own tenant is the default one.
ADMIN_KEY = "b7e3f0a1c9d24e5f8a6b0c1d2e3f4a5b"
AS_ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 90
FLAGS = (
    "--enforce-eager", "--dtype", "float32",
    "--enable-scale-out",  # /inference/v1/generate
    "--max-model-len", "1024", "--max-num-seqs", "16", "--max-num-batched-tokens", "256",
    "--kv-cache-memory-bytes", str(256 << 20),  # filled soon, so that a growing process is one that leaks
)  # fmt: skip


def start_tinylora(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """Runs the installed command; `options` are Popen's."""
    return subprocess.Popen([str(TINYLORA), *arguments], **options)  # type: ignore[call-overload, no-any-return]


class ServerProcess:
    """One server at a time in `directory`, which keeps its database and what its processes printed.

    Traces go to the collector at `traces_url`, by OTLP over HTTP, at once. `more_flags` come after
    FLAGS, and so overrule them.
    """

    def __init__(self, directory: Path, model: Path, traces_url: str = "", more_flags: Sequence[str] = ()) -> None:
        self.model = model.name
        self._directory = directory
        self.model_path = model
        self.database_url = f"sqlite:///{directory}/tinylora.db"
        self.files_url = str(directory / "files")
        self._traces_url = traces_url
        self._flags = (*FLAGS, *more_flags)
        self._output = directory / "output.txt"
        self._engine_log = directory / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    def start(self) -> None:
        """Returns when /ready says yes; AssertionError with everything the process printed when it does not."""
        with self._output.open("ab") as output:
            self._process = start_tinylora(
                "serve", str(self.model_path), "--host", "127.0.0.1", "--port", str(self._port), *self._flags,
                env=self._environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.output()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server was not ready after {START_TIMEOUT_S} s:\n{self.output()}")
            time.sleep(0.5)

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status; AssertionError with the output when the process does not end."""
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end within {STOP_TIMEOUT_S} s:\n{self.output()}") from None

    def kill(self) -> None:
        """SIGKILL to gateway and worker, behind which the engine ends. AssertionError when anything of it lives on."""
        others = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(others, timeout=STOP_TIMEOUT_S)
        assert not alive, f"killed with their server, and still there: {alive}"

    def worker(self, method: str) -> psutil.Process | None:
        """Its training worker for jobs of `method`, if it has one at the moment."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if f"--method={method}" in child.cmdline()), None)

    def output(self) -> str:
        """What the server printed, then what its engine and workers did."""
        files = (file for file in (self._output, self._engine_log) if file.exists())
        return "".join(file.read_text(errors="replace") for file in files)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def _environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "TINYLORA_ADMIN_KEY": ADMIN_KEY,
            "TINYLORA_DATABASE_URL": self.database_url,
            "TINYLORA_FILES_URL": self.files_url,
            "TINYLORA_ENGINE_LOG": str(self._engine_log),
            "TINYLORA_TRAINING_LOG_DIR": str(self._directory / "tensorboard"),
            # A test waits for as long as this when it has killed a worker.
            "TINYLORA_WORKER_LEASE_S": "10",
            # Graders and environments of tests are on this machine.
            "TINYLORA_ENDPOINT_HOSTS": "*,localhost",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._traces_url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }


@contextmanager
def started(server: ServerProcess) -> Iterator[ServerProcess]:
    """`server`, from when it is ready until the block ends, when it is killed."""
    server.start()
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
