"""What Inductor would generate for a Hopper GPU, on a machine that need not have one.

Run in a process of its own: it makes torch believe that there is a GPU. Needs a CUDA build of torch, and Triton.
Functions are traced on tensors without content and nothing is compiled or run; they must not index with [], which would
ask the driver (narrow, select and index_select do not).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo.device_interface as interfaces
import torch._subclasses.fake_tensor as fake
import torch.cuda.random
import torch.utils._triton
from torch._inductor import compile_fx, config, graph
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

PROPERTIES = SimpleNamespace(
    name="Hopper", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, warp_size=32, gcnArchName="",
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, regs_per_multiprocessor=65536,
    L2_cache_size=50 << 20, shared_memory_per_block=49152, shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernel:
    """One Triton kernel of the generated code: how many numbers it loads and stores for each element."""

    elements: int
    loads: int
    stores: int


@dataclass(frozen=True, slots=True)
class Generated:
    """The generated code. `products` are calls of cuBLAS, `operations` those of our own operations, in their order."""

    kernels: Sequence[Kernel]
    products: int
    operations: Sequence[str]
    code: str


class _NoDevice:
    def __init__(self, *_: Any) -> None: ...
    def __enter__(self) -> _NoDevice:
        return self

    def __exit__(self, *_: object) -> bool:
        return False


def pretend() -> None:
    """Make torch of this process believe that it has a Hopper GPU, as far as generating code asks."""

    def answer(value: Any) -> Callable[..., Any]:
        return lambda *_: value

    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_initialized": False, "synchronize": None,
        "get_device_properties": PROPERTIES, "get_device_capability": (9, 0), "get_device_name": PROPERTIES.name,
        "_lazy_init": None, "_exchange_device": 0, "_maybe_exchange_device": 0, "set_rng_state": None,
        "get_rng_state": torch.empty(0),
    }  # fmt: skip
    for name, value in answers.items():
        setattr(torch.cuda, name, answer(value))
        if hasattr(torch.cuda.random, name):
            setattr(torch.cuda.random, name, answer(value))
    torch.cuda.device = torch.cuda._DeviceGuard = _NoDevice  # type: ignore[assignment,misc]
    torch._C._cuda_exchangeDevice = answer(0)
    interface: Any = interfaces.CudaInterface
    for name, value in {
        "is_available": True, "get_compute_capability": 90, "device_count": 1, "current_device": 0, "synchronize": None,
        "get_raw_stream": 0, "is_triton_capable": True, "raise_if_triton_unavailable": None,
        "get_device_properties": PROPERTIES,
    }.items():  # fmt: skip
        setattr(interface, name, staticmethod(answer(value)))
    interface.device = _NoDevice
    interface.Worker.get_device_properties = staticmethod(answer(PROPERTIES))
    interface.Worker.current_device = staticmethod(answer(0))
    fake.init_gpu_context = answer(None)
    torch.utils._triton.triton_hash_with_backend = answer("none")
    config.compile_threads, config.fx_graph_cache, config.triton.cudagraphs = 1, False, False


def generated(function: Callable[..., Any], inputs: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> Generated:
    """Inductor's code for `function` of CUDA tensors of these shapes and dtypes; it returns a tuple of tensors."""
    code: list[str] = []

    class Done(Exception):
        pass

    original = graph.GraphLowering.codegen

    def codegen(self: Any) -> None:
        code.append(original(self)[0].value)
        raise Done

    mode = fake.FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    compiling = mock.patch.object(torch.compiler, "is_compiling", lambda: True)
    with mode, compiling, mock.patch.object(graph.GraphLowering, "codegen", codegen):
        tensors = [torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in inputs]
        traced = make_fx(function, decomposition_table=select_decomp_table())(*tensors)
        try:
            compile_fx.compile_fx_inner(traced, tensors)
        except Exception:
            if not code:
                raise
    return _read(code[0])


def _read(code: str) -> Generated:
    kernels = []
    for body in re.findall(r"def triton_\w+\(.*?\):\n(.*?)''', device_str", code, re.S):
        size = re.search(r"xnumel = (\d+)", body)
        reduced = re.search(r"r0_numel = (\d+)", body)
        elements = int(size.group(1)) if size else 1
        kernels.append(
            Kernel(elements * (int(reduced.group(1)) if reduced else 1), body.count("tl.load"), body.count("tl.store"))
        )
    operations = re.findall(r"torch\.ops\.tinylora\.(\w+)\.default\(", code)
    return Generated(kernels, len(re.findall(r"extern_kernels\.\w+\(", code)), operations, code)
