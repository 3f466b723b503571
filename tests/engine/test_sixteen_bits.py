"""In bfloat16 an adapter is as near to PEFT in float32 as PEFT in bfloat16 is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import TinyLoraConfig, get_peft_model
from torch import Tensor

from adapters.factors.build import build_factors
from tests.engine.reference import VOCABULARY, PeftReference, save_tiny_model
from tests.engine.running import Job, RunningEngine
from tests.engine.test_answers import job, prompt_of

pytestmark = pytest.mark.engine

RANK = 2


@dataclass(frozen=True)
class Computed:
    """A linear method whose product was computed before."""

    y_TO: Tensor

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.y_TO

    def process_weights_after_loading(self, layer: Any) -> None: ...


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_delta_is_rounded_once_and_peft_rounds_no_less(dtype: torch.dtype, compiled: bool) -> None:
    from adapters.vllm.adapted_layer import LayerFactors, add_factors
    from adapters.vllm.delta import fused

    torch.manual_seed(0)
    linear = torch.nn.Linear(384, 256, bias=False)
    left, _, right = torch.linalg.svd(linear.weight.data, full_matrices=False)
    linear.weight.data = (left * 0.9 ** torch.arange(256)) @ right
    config = TinyLoraConfig(r=RANK, u=4, target_modules=["0"], projection_seed=3)
    peft = get_peft_model(torch.nn.Sequential(linear.to(dtype)), config)
    layer = peft.base_model.model[0]
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "tinylora_v" in name:
                parameter.copy_(torch.tensor([9.0, -6.0, 3.0, 7.5]))  # a delta several times as large as y
    x_TI = torch.randn(64, 384).to(dtype)
    buffers = {name.rpartition("tinylora_")[2].partition(".")[0]: tensor for name, tensor in peft.named_buffers()}
    b_OR, p_URR, a_RI = buffers["B"], buffers["P"], buffers["A"]
    v_U = next(parameter for name, parameter in peft.named_parameters() if "tinylora_v" in name).detach()
    r_RR = torch.einsum("u,uij->ij", v_U, p_URR.reshape(-1, RANK, RANK))
    y_TO = torch.nn.functional.linear(x_TI, layer.get_base_layer().weight)
    exact_TO = y_TO.double() + x_TI.double() @ a_RI.double().T @ r_RR.double().T @ b_OR.double().T
    with torch.no_grad():
        theirs_TO = layer(x_TI)
        adapted: Any = torch.nn.Module()
        factors = LayerFactors(a_RI.contiguous(), [b_OR.T.contiguous()])
        add_factors(adapted, factors, r_RR.reshape(1, -1), torch.zeros(64, dtype=torch.int64), None)
        forward = partial(fused(Computed(y_TO), adapted), Computed(y_TO), adapted)
        ours_TO = (torch.compile(forward) if compiled else forward)(x_TI, None)
    assert ours_TO.dtype == dtype and (exact_TO - y_TO).norm() > 2 * y_TO.norm()
    ours, theirs = ((found.double() - exact_TO).abs() for found in (ours_TO, theirs_TO))
    half_unit = torch.finfo(dtype).eps / 2
    # Half a unit in the last place is at most eps / 2 of the number; the rest is float32's sums.
    assert (ours <= half_unit * exact_TO.abs() + 1e-5 * exact_TO.abs().mean()).all()
    assert ours.norm() <= 1.01 * theirs.norm()


@pytest.mark.parametrize(("delta", "times"), [("auto", 1.3), ("columns", 1.3), ("rows", 1.5)])
def test_engines_answers_are_as_near_to_float32_as_pefts(delta: str, times: float, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "llama", "llama", torch.bfloat16)
    factors = build_factors(path, progress=False)
    exact = PeftReference(path, factors, 24)
    rounded = PeftReference(path, factors, 24, torch.bfloat16)
    rounded.take_frozen_matrices(exact)
    engine = RunningEngine(str(path), factors, delta=delta, dtype="bfloat16")
    try:
        jobs: list[Job] = [job(exact, prompt_of(24, n), n, tokens=12) for n in range(24)]
        answers = engine.all(jobs)
    finally:
        engine.close()
    ours, theirs = [], []
    for adapter, answer in enumerate(answers):
        expected = torch.tensor(exact.logprobs(answer, adapter))
        ours.append(torch.tensor(answer.logprobs) - expected)
        theirs.append(torch.tensor(rounded.logprobs(answer, adapter)) - expected)
    distances = torch.stack(ours).square().mean().sqrt().item(), torch.stack(theirs).square().mean().sqrt().item()
    print("root mean square distance from PEFT in float32, of the engine and of PEFT, in nats:", distances)
    assert distances[0] < times * distances[1], f"{distances} nats, of {VOCABULARY} tokens"
