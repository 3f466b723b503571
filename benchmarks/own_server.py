"""A server in processes of its own, on a directory that outlives it: killed, started again, its memory watched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

START_S = 900.0
SAMPLE_S = 0.5
END_S = 10.0
LOG_SHOWN = 3000

Command = Callable[[int], Sequence[str]]  # by port


@dataclass(slots=True)
class Life:
    """One process of the gateway, from when it was ready. Bytes of its resident memory at the start, the most, and the
    last; seconds of processors that it took since, and that the processes below it took (the engine's)."""

    start_bytes: int
    most_bytes: int
    last_bytes: int
    gateway_s: float = 0.0
    engine_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ServerEnded(Exception):
    """The server ended, or did not start. The message has the end of its log."""


class OwnServer:
    """Started and killed at will within the block; nothing of it is left behind.

    command: what runs it, on a port. environment: beside this process's. log: the file to which all of them write.
    """

    def __init__(self, command: Command, environment: Mapping[str, str], log: Path) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._process: psutil.Popen | None = None
        self._watch: threading.Thread | None = None
        self._ended = threading.Event()
        self.life: Life | None = None

    def __enter__(self) -> OwnServer:
        return self

    def __exit__(self, *_raised: object) -> None:
        if self._process is not None:
            self.kill()

    def start(self) -> str:
        """Its URL, when it is ready. ServerEnded."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with self._log.open("ab") as log:
            self._process = psutil.Popen(
                self._command(port),
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the benchmark, which then ends it
            )
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not self._is_ready(url):
            self.check()
            if time.monotonic() > until:
                raise ServerEnded(f"The server was not ready after {START_S:.0f} s; {self._log} says what it did.")
            time.sleep(0.5)
        self._ended.clear()
        self.life = self._sampled(None)
        self._watch = threading.Thread(target=self._sample_on_and_on, daemon=True)
        self._watch.start()
        return url

    def check(self) -> None:
        """ServerEnded when it has."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            shown = self._log.read_text(errors="replace")[-LOG_SHOWN:]
            raise ServerEnded(f"{shown}\nThe server ended with the status {code}; {self._log} has all that it said.")

    def kill(self) -> Life | None:
        """SIGKILL to the gateway, then to whatever of its engine does not end by itself. The life that ended."""
        assert self._process is not None
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
        below: list[psutil.Process] = []
        with suppress(psutil.Error):
            below = self._process.children(recursive=True)
        with suppress(psutil.Error):
            self._process.kill()
        self._process.wait()
        _, left = psutil.wait_procs(below, timeout=END_S)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        self._process, self._watch = None, None
        return self.life

    @staticmethod
    def _is_ready(url: str) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/ready", timeout=5, verify=False).status_code == 200
        return False

    def _sample_on_and_on(self) -> None:
        before = self._taken()
        while not self._ended.wait(SAMPLE_S):
            with suppress(psutil.Error):
                self.life = life = self._sampled(self.life)
                gateway_s, engine_s = self._taken()
                # What a process took that has ended is no longer told.
                life.gateway_s = max(life.gateway_s, gateway_s - before[0])
                life.engine_s = max(life.engine_s, engine_s - before[1])

    def _sampled(self, life: Life | None) -> Life:
        assert self._process is not None
        resident = self._process.memory_info().rss
        if life is None:
            return Life(resident, resident, resident)
        life.most_bytes, life.last_bytes = max(life.most_bytes, resident), resident
        return life

    def _taken(self) -> tuple[float, float]:
        """Seconds of processors that the gateway has taken, and the processes below it."""
        assert self._process is not None

        def seconds(process: psutil.Process) -> float:
            with suppress(psutil.Error):
                times = process.cpu_times()
                return float(times.user + times.system)
            return 0.0

        return seconds(self._process), sum(map(seconds, self._process.children(recursive=True)))


def tinylora_serve(model: str) -> Command:
    """`tinylora serve`, with its defaults."""
    return lambda port: [
        sys.executable, "-m", "server.launch.cli", "serve", model, "--host", "127.0.0.1", "--port", str(port)
    ]  # fmt: skip
