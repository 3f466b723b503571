"""The Triton kernels against their formulas: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
TRITON = Path(sys.prefix) / "triton"
INTERPRETER = ROOT / "tests" / "engine" / "triton_interpreter"

# Tokens, rank, modules, features: fewer tokens than a program takes, and more; features and terms that fill no block.
CASES = [(1, 1, 1, 96), (11, 2, 1, 1300), (19, 2, 3, 128), (5, 3, 2, 70), (9, 8, 3, 33)]


def check(device: str) -> None:
    """Every case in every dtype; raises where a kernel is not its formula."""
    from adapters.vllm.rotate import rotate_kernel
    from adapters.vllm.shrink import SPLIT, shrink_kernel

    for tokens, rank, modules, features in CASES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            torch.manual_seed(tokens)
            terms, size = modules * rank, modules * rank * rank
            x_TI = torch.randn(tokens, 2 * features, device=device).to(dtype)[:, :features]  # a view, with a stride
            shrink_LI = torch.randn(terms, features, device=device)
            h_TP = shrink_kernel(x_TI, shrink_LI)
            assert h_TP.dtype == torch.float32 and h_TP.shape == (tokens, -(-features // SPLIT) * terms)
            exact_TL = x_TI.double() @ shrink_LI.double().T
            torch.testing.assert_close(h_TP.double().view(tokens, -1, terms).sum(1), exact_TL, rtol=1e-5, atol=1e-4)

            table_SE = torch.randn(6, size + 5, device=device)[:, 3 : 3 + size]
            slots_T = torch.randint(0, 6, (tokens + 4,), device=device)
            # Two parts side by side, beside others, as a product leaves them.
            h_TP = torch.randn(tokens, 4 + 2 * terms + 1, device=device).to(dtype)[:, 4:]
            places = torch.tensor([0] * 9 + list(range(modules)), device=device)
            g_TL = rotate_kernel(h_TP, table_SE, slots_T, None, 2, terms, rank)
            g_THR = rotate_kernel(h_TP, table_SE, slots_T, places, 2, terms, rank).view(tokens, -1, rank)
            assert torch.equal(g_THR, g_TL.view(tokens, modules, rank)[:, places])
            h_TQR = h_TP[:, : 2 * terms].double().view(tokens, 2, modules, rank).sum(1)
            r_TQRR = table_SE[slots_T[:tokens]].double().reshape(tokens, modules, rank, rank)
            exact_TL = torch.einsum("tqij,tqj->tqi", r_TQRR, h_TQR).reshape(tokens, -1)
            torch.testing.assert_close(g_TL.double(), exact_TL, rtol=1e-5, atol=1e-4)
            assert g_TL.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernels_are_their_formulas_on_a_gpu() -> None:
    check("cuda")


@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not installed: make triton")
def test_kernels_are_their_formulas_in_the_interpreter() -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(INTERPRETER), str(TRITON), os.environ.get("PYTHONPATH", "")]),
        "TRITON_INTERPRET": "1",
    }
    code = "from tests.adapters.vllm.test_kernels import check; check('cpu'); print('every case')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "every case" in done.stdout, done.stderr[-3000:]


@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not installed: make triton")
def test_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    """The interpreter takes more than Triton's compiler does."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(TRITON), os.environ.get("PYTHONPATH", "")])
    }
    command = [sys.executable, "-c", "from tests.adapters.vllm.test_kernels import compile_all; compile_all()"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["shrink", "rotate"] * 18, done.stderr[-3000:]


@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not installed: make triton")
def test_no_number_of_tokens_is_compiled_for_again() -> None:
    code = "from tests.adapters.vllm.test_kernels import variants; print(variants())"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(TRITON), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr[-3000:]


def variants() -> str:
    """Of each kernel, how many Triton compiles of it for 1, 16, 17 and 8192 tokens on a Hopper GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    from adapters.vllm import kernels

    backend = make_backend(GPUTarget("cuda", 90, 32))
    pointer = torch.empty(64)

    def count(kernel: Any, pointers: int, sizes: dict[str, int]) -> int:
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        numbers = len(kernel.arg_names) - pointers - 1 - len(sizes)
        counts = (1, 16, 17, 8192)
        return len({str(bind(*[pointer] * pointers, tokens, *[4608] * numbers, **sizes)[1]) for tokens in counts})

    shrink = {"TERMS": 2, "PADDED": 2, "TOKENS": 8, "FEATURES": 128, "SPLIT": 1024}
    rotate = {"PARTS": 2, "RANK": 2, "TERMS": 2, "OUTS": 2, "PADDED": 2, "TOKENS": 8}
    return f"{count(kernels.shrink, 3, shrink)} {count(kernels.rotate, 5, rotate)}"


def compile_all() -> None:
    """Both kernels, for a Hopper GPU with every dtype and number of terms, and for other GPUs with one; prints what was
    compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compiled

    from adapters.vllm import kernels

    def build(target: Any, kernel: Any, constants: dict[str, int], **pointers: str) -> None:
        numbers = [name for name in kernel.arg_names if name not in constants and name not in pointers]
        signature = pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature={name: signature[name] for name in kernel.arg_names}, constexprs=constants)
        assembled = compiled(source, target=target).asm
        assert assembled.get("cubin") or assembled["hsaco"]
        print(kernel.__name__)

    def build_both(target: Any, dtype: str, rank: int, modules: int, padded: int) -> None:
        terms = rank * modules
        sizes = {"TERMS": terms, "PADDED": padded, "TOKENS": 8, "FEATURES": 128, "SPLIT": 1024}
        build(target, kernels.shrink, sizes, x=dtype, v="*fp32", out="*fp32")
        sizes = {"PARTS": 2, "RANK": rank, "TERMS": terms, "OUTS": terms, "PADDED": padded, "TOKENS": 8}
        build(target, kernels.rotate, sizes, h=dtype, table="*fp32", slots="*i64", modules="*i64", out="*fp32")

    for dtype in ("*fp32", "*bf16", "*fp16"):
        for rank, modules, padded in ((1, 1, 2), (2, 1, 2), (2, 3, 8), (8, 3, 32)):
            build_both(GPUTarget("cuda", 90, 32), dtype, rank, modules, padded)
    # T4 (no bfloat16), A100, L4, B200, RTX 5090; MI300X.
    build_both(GPUTarget("cuda", 75, 32), "*fp16", 2, 3, 8)
    for capability in (80, 89, 100, 120):
        build_both(GPUTarget("cuda", capability, 32), "*bf16", 2, 3, 8)
    build_both(GPUTarget("hip", "gfx942", 64), "*bf16", 2, 3, 8)
