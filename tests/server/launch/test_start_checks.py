"""What a start asks of the machine first, and what it says when something is missing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.core.cgroups import cpu_quota
from server.core.host_memory import available_memory, total_memory
from server.core.settings import Settings
from server.launch.cpu_defaults import keep_to_quota
from server.launch.start_checks import (
    CannotStart,
    Place,
    check_disk,
    check_libraries,
    check_memory,
    check_port,
    memory_needed,
)
from server.launch.start_messages import check_machine

TINYLORA = Path(sys.executable).with_name("tinylora")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "flags", [["--port", "{}"], ["--port={}", "--host", "127.0.0.1"], ["--host=localhost", "--port={}"]]
)
def test_port_that_is_taken_is_told_with_who_has_it(taken: int, flags: list[str]) -> None:
    with pytest.raises(CannotStart, match=rf"Port {taken} is taken by process {os.getpid()}.*--port {taken + 1}"):
        check_port([flag.format(taken) for flag in flags])


def test_ports_that_are_free_or_not_to_be_read_here_are_left(taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    check_port(["--port", str(free)])
    check_port(["--port", str(taken), "--uds", "/tmp/x.sock"])
    check_port(["--port", "ninety"])


def test_a_start_without_flags_looks_at_the_default_port() -> None:
    with suppress(CannotStart):  # another server may have it
        check_port([])
    with pytest.raises(CannotStart, match=r"192\.0\.2\.1"):
        check_port(["--host=192.0.2.1"])


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotStart, match=r"192\.0\.2\.1 port 8000 .*name an address of this machine"):
        check_port(["--host", "192.0.2.1"])


def test_serving_on_a_port_that_is_taken_ends_in_one_sentence(taken: int, tmp_path: Path) -> None:
    command = [str(TINYLORA), "serve", str(tmp_path), "--port", str(taken)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"tinylora: Port {taken} is taken by process {os.getpid()}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TINYLORA_REDIS_URL": "foo"}, "expected redis://[[user]:password@]host[:port][/database]"),
        ({"TINYLORA_FILES_URL": "nosuch://me:geheim@host/x"}, "TINYLORA_FILES_URL is 'nosuch://***@host/x': "),
        ({"TINYLORA_MODELS_DIR": "/dev/null"}, "cannot be put into /dev/null"),
        ({"TINYLORA_ENGINE_LOG": "/dev/null/log"}, "TINYLORA_ENGINE_LOG is /dev/null/log, which cannot be written"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said_in_one_sentence(
    environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [str(TINYLORA), "serve", "--port", str(port)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment}, timeout=120
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tinylora: ") and said in done.stderr and done.stderr.count("\n") == 1
    assert "geheim" not in done.stderr


def test_missing_library_is_told_with_its_package() -> None:
    check_libraries({"libc.so.6": "libc6"})
    with pytest.raises(CannotStart, match=r"needs libnowhere\.so\.1, .*apt-get install libnowhere1"):
        check_libraries({"libnowhere.so.1": "libnowhere1"})


def test_too_little_memory_names_both_amounts_and_the_flag() -> None:
    with pytest.raises(CannotStart, match=r"takes 1000000\.0 GB .*--kv-cache-memory-bytes"):
        check_memory(10**15)
    assert check_memory(1) > 0


def test_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 300000\n")
    assert available_memory(tmp_path) == 400_000
    assert total_memory(tmp_path) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 1_000_000


def test_memory_is_what_the_container_leaves_in_version_1(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n0::/\n")
    group = tmp_path / "memory"  # as in a container, where the path of the host is not there
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("1000000\n")
    (group / "memory.usage_in_bytes").write_text("900000\n")
    (group / "memory.stat").write_text("total_rss 500000\ntotal_inactive_file 300000\n")
    assert available_memory(tmp_path, own) == 400_000
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert available_memory(tmp_path, own) > 1_000_000


def test_memory_is_what_the_service_leaves_and_what_is_around_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/system.slice/tinylora.service\n")
    service = tmp_path / "system.slice" / "tinylora.service"
    service.mkdir(parents=True)
    for group, limit in ((service, "5000000"), (service.parent, "1000000")):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("900000\n")
        (group / "memory.stat").write_text("inactive_file 0\n")
    assert available_memory(tmp_path, own) == 100_000
    (service / "memory.max").write_text("10\n")
    assert available_memory(tmp_path, own) == 0


@pytest.mark.parametrize(
    ("file", "text", "quota"),
    [
        ("cpu.max", "150000 100000", 1.5),
        ("cpu.max", "max 100000", None),
        ("cpu/cpu.cfs_quota_us", "400000", 4.0),
        ("cpu/cpu.cfs_quota_us", "-1", None),
    ],
)
def test_cpus_are_those_that_the_container_may_use(tmp_path: Path, file: str, text: str, quota: float | None) -> None:
    own = tmp_path / "own"
    own.write_text("2:cpu,cpuacct:/\n0::/\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / file).write_text(f"{text}\n")
    assert cpu_quota(tmp_path, own) == quota


@pytest.mark.parametrize(
    ("quota", "given", "threads"),
    [(0.5, {}, "1"), (None, {}, None), (4096.0, {}, None), (0.5, {"OMP_NUM_THREADS": "7"}, "7")],
)
def test_the_engine_has_no_more_threads_than_cpus_unless_told(
    quota: float | None, given: dict[str, str], threads: str | None
) -> None:
    environment = dict(given)
    keep_to_quota(1, quota, environment)
    assert environment.get("OMP_NUM_THREADS") == threads
    assert ("VLLM_CPU_OMP_THREADS_BIND" in environment) == (quota == 0.5 and not given)


def test_weights_count_twice_as_float32(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    nothing = memory_needed("someone/somewhere", 0, as_float32=True)
    assert memory_needed(str(tmp_path), 50, as_float32=False) == nothing + 1050
    assert memory_needed(str(tmp_path), 50, as_float32=True) == nothing + 2050


def place(directory: Path, size: int) -> Place:
    return Place(directory, size, f"set {directory.name.upper()}")


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"file/below cannot be written, as .*file cannot: .*, or set BELOW\.$"):
        check_disk(place(tmp_path / "file" / "below", 1))


@pytest.mark.parametrize(
    ("files_url", "cache", "said"),
    [
        ("/dev/null/files", "cache", "set TINYLORA_FILES_URL to another directory"),
        ("memory://files", "/dev/null/cache", "set VLLM_CACHE_ROOT to another directory"),
    ],
)
def test_a_start_names_the_variable_of_a_directory_that_cannot_be_written(
    files_url: str, cache: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / cache))
    with pytest.raises(CannotStart, match=f"/dev/null cannot: see to who may, or {said}"):
        check_machine(Namespace(), Settings(files_url=files_url))


@pytest.mark.skipif(os.access("/proc/sys", os.W_OK), reason="nothing is read-only here, even for root")
def test_a_disk_that_is_read_only_is_told() -> None:
    with pytest.raises(CannotStart, match="/proc/sys/below cannot be written"):
        check_disk(place(Path("/proc/sys/below"), 0))


def test_directories_on_one_disk_need_their_room_together(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_disk(place(tmp_path / "a", free // 3))
    with pytest.raises(CannotStart, match=r"/a and .*/b need .* of disk, .*, set A or set B\.$"):
        check_disk(place(tmp_path / "a", free * 2 // 3), place(tmp_path / "b", free * 2 // 3))


def test_too_little_disk_names_the_directory(tmp_path: Path) -> None:
    check_disk(place(tmp_path / "not" / "there", 1))
    with pytest.raises(CannotStart, match=r"not/there needs 1000000\.0 GB of disk"):
        check_disk(place(tmp_path / "not" / "there", 10**15))


WHY = "from server.launch.compiler import why_not_compile; print(why_not_compile())"


def why_not_compile(path: str, **environment: str) -> str:
    """What a process says that has only `path` to look for programs."""
    command = [sys.executable, "-c", WHY]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_missing_compiler_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    assert why_not_compile(str(tmp_path)) == "there is no C++ compiler (apt-get install g++)"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.skipif(not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="there are no headers")
def test_compiler_is_tried(tmp_path: Path) -> None:
    assert why_not_compile(os.environ["PATH"]) == "None"
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec /usr/bin/env true\necho "fatal error: no such thing" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    said = why_not_compile(f"{tmp_path}:{os.environ['PATH']}")
    assert said.startswith("g++ cannot compile") and said.endswith("fatal error: no such thing")
