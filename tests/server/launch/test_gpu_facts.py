"""What is read of a machine's GPUs, through a stand-in for NVML; and which of them an engine uses, by vLLM's flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from server.core.host_memory import GIB
from server.launch.gpu_facts import engine_places, gpu_facts, visible_gpus
from server.launch.gpu_plan import Gpu
from server.launch.vllm_flags import parse_vllm_args
from tests.adapters.tiny_models import load_model, save_model

UUIDS = ("GPU-aaa", "GPU-bbb", "MIG-ccc")
MEMORY = {0: (80, 79), 1: (48, 10), 2: (20, 20)}
PART = (10, 9)


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


@dataclass
class Nvml:
    """As much of pynvml as is used, of a machine with MEMORY. A handle is the number of a GPU, or the UUID of a part.

    parts: of GPUs that are cut in parts (MIG), by their numbers: UUIDs, None for those that others have.
    """

    is_there: bool = True
    has_memory: bool = True
    parts: dict[int, list[str | None]] = field(default_factory=dict)
    opened: int = 0
    NVMLError: type[Exception] = field(default=NVMLError, init=False)
    NVMLError_NotSupported: type[Exception] = field(default=NotSupported, init=False)
    NVML_DEVICE_MIG_ENABLE: int = field(default=1, init=False)

    def nvmlInit(self) -> None:
        if not self.is_there:
            raise NVMLError
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(MEMORY)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index not in MEMORY:
            raise NVMLError
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in UUIDS:
            raise NVMLError
        return UUIDS.index(uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: int | str) -> Any:
        if not self.has_memory:
            raise NotSupported
        total, free = PART if isinstance(handle, str) else MEMORY[handle]
        return SimpleNamespace(total=total, free=free)

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        if handle == 1:
            raise NVMLError  # it cannot be cut
        return [int(handle in self.parts), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, number: int) -> str:
        found = self.parts[handle][number : number + 1]
        if not found or found[0] is None:
            raise NVMLError
        return found[0]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-bbb, MIG-ccc", ["GPU-bbb", "MIG-ccc"]),
        # CUDA shows what is before the first that there is not.
        ("1,7,0", ["1"]),
        ("-1,0", []),
        ("", []),
    ],
)
def test_gpus_are_those_that_cuda_shows_in_its_order(visible: str | None, names: list[str]) -> None:
    nvml = Nvml()
    found = visible_gpus(nvml, visible)
    handles = [int(name) if name.isdigit() else UUIDS.index(name) for name in names]
    assert found == tuple(Gpu(name, *MEMORY[handle]) for name, handle in zip(names, handles, strict=True))
    assert nvml.opened == 0


@pytest.mark.parametrize("visible", [None, "2", "1,2"])
def test_of_gpus_cut_in_parts_the_first_is_all_that_there_is(visible: str | None) -> None:
    """As in a container that was given one part: CUDA shows it for the number of its GPU, whose memory is not ours."""
    found = visible_gpus(Nvml(parts={2: [None, "MIG-second", "MIG-third"]}), visible)
    assert found == (Gpu("MIG-second", *PART),)


def test_a_gpu_without_the_part_that_others_have_is_as_it_is() -> None:
    assert visible_gpus(Nvml(parts={2: ["MIG-first"]}), "1,0") == (Gpu("1", *MEMORY[1]), Gpu("0", *MEMORY[0]))


def test_a_gpu_without_memory_of_its_own_has_the_machines() -> None:
    nvml = Nvml(has_memory=False)
    (gpu,) = visible_gpus(nvml, "0")
    assert 0 < gpu.free < gpu.total == psutil.virtual_memory().total
    assert not nvml.opened


def test_without_nvml_there_is_nothing_to_plan_with() -> None:
    assert visible_gpus(Nvml(is_there=False), None) == ()


FOUR = tuple(Gpu(name, 80, 80) for name in ("0", "1", "GPU-bbb", "3"))


@pytest.mark.parametrize(
    ("flags", "places"),
    [
        ("", (0,)),
        ("--tensor-parallel-size 2", (0, 1)),
        ("--pipeline-parallel-size 2 --data-parallel-size 2", (0, 1, 2, 3)),
        ("--tensor-parallel-size 8", (0, 1, 2, 3)),
        ("--data-parallel-size 4 --data-parallel-size-local 2", (0, 1)),
        ("--device-ids 3,1 --tensor-parallel-size 2", (3, 1)),
        ("--device-ids GPU-bbb", (2,)),
        # Something else chooses: none can be called free.
        ("--tensor-parallel-size 2 --distributed-executor-backend ray", (0, 1, 2, 3)),
        ("--device-ids GPU-zzz", (0, 1, 2, 3)),
    ],
)
def test_the_engines_gpus_follow_from_vllms_flags(flags: str, places: tuple[int, ...], tmp_path: Path) -> None:
    assert engine_places(parse_vllm_args(str(tmp_path), flags.split()), FOUR) == places


@pytest.mark.parametrize(
    ("flags", "is_given"),
    [("", False), ("--gpu-memory-utilization 0.92", True), ("--kv-cache-memory-bytes 1G", True)],
)
def test_what_the_user_says_of_memory_is_told_from_vllms_default(flags: str, is_given: bool, tmp_path: Path) -> None:
    args = parse_vllm_args(str(tmp_path), flags.split())
    assert args.memory_is_given == is_given
    assert args.gpu_memory_utilization == 0.92


def test_what_a_model_takes_is_read_from_its_files(tmp_path: Path) -> None:
    path = save_model(tmp_path, dtype=torch.float32)
    weights = sum(weight.numel() for weight in load_model(path).parameters())
    args = parse_vllm_args(str(path), ["--tensor-parallel-size", "2"])
    facts = gpu_facts(args, FOUR, path, path, workers=3, worker_gib=1.5)
    # Both have it in 16 bits; the engine shares it among its GPUs.
    assert (facts.engine_weights, facts.worker_weights, facts.engine) == (weights, 2 * weights, (0, 1))
    assert facts.worker_weights < facts.worker_least < facts.worker_usual
    assert (facts.workers, facts.worker_share) == (3, 3 * GIB // 2)
    wide = parse_vllm_args(str(path), ["--dtype", "float32"])
    assert gpu_facts(wide, FOUR, path, path, workers=1, worker_gib=None).engine_weights == 4 * weights
    assert gpu_facts(wide, FOUR, path, None, workers=1, worker_gib=None).workers == 0
