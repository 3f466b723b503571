"""The Triton kernel against its formula: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
TRITON = Path(sys.prefix) / "triton"
INTERPRETER = ROOT / "tests" / "engine" / "triton_interpreter"

# Fewer tokens than a program takes, and more; features and terms that fill no block.
CASES = [(1, 1, 1, 96), (11, 2, 1, 200), (19, 2, 3, 128), (5, 3, 2, 70), (9, 8, 3, 33)]


def check(device: str) -> None:
    """Every case in every dtype; raises where the kernel is not the formula."""
    from adapters.vllm.shrink_rotate import shrink_rotate

    for tokens, rank, modules, features in CASES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            torch.manual_seed(tokens)
            x_TI = torch.randn(tokens, 2 * features, device=device).to(dtype)[:, :features]  # a view, with a stride
            shrink_LI = torch.randn(modules * rank, features, device=device)
            size = modules * rank * rank
            table_SE = torch.randn(6, size + 5, device=device)[:, 3 : 3 + size]
            slots_T = torch.randint(0, 6, (tokens + 4,), device=device)
            found_TL = shrink_rotate(x_TI, shrink_LI, table_SE, slots_T, rank)
            h_TQR = (x_TI.double() @ shrink_LI.double().T).view(tokens, modules, rank)
            r_TQRR = table_SE[slots_T[:tokens]].double().reshape(tokens, modules, rank, rank)
            exact_TL = torch.einsum("tqij,tqj->tqi", r_TQRR, h_TQR).reshape(tokens, -1)
            torch.testing.assert_close(found_TL.double(), exact_TL, rtol=1e-5, atol=1e-4)
            assert found_TL.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernel_is_the_formula_on_a_gpu() -> None:
    check("cuda")


@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not installed: make triton")
def test_kernel_is_the_formula_in_the_interpreter() -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(INTERPRETER), str(TRITON), os.environ.get("PYTHONPATH", "")]),
        "TRITON_INTERPRET": "1",
    }
    code = "from tests.adapters.vllm.test_shrink_rotate import check; check('cpu'); print('every case')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "every case" in done.stdout, done.stderr[-3000:]
