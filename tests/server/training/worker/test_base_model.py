"""Log-probabilities and gradients in models of other families, against transformers' own logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, CLIPVisionConfig, LlamaForCausalLM

from adapters.apply.reconstruct import delta_weight
from adapters.apply.trainable import TrainableAdapters
from adapters.factors.build import build_factors
from adapters.factors.default_recipe import default_recipe
from adapters.factors.transformers_model import auto_class, names_in
from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError
from server.training.worker.base_model import LogitShape, check_logits, load_base_model, logit_shape
from server.training.worker.forward import Task, forward_backward
from server.training.worker.memory import pass_bytes, weights_bytes
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from server.training.worker.token_scores import TokenScores
from tests.adapters.families import SHAPE, Merged, save_family
from tests.adapters.vision_model import VISION, save_vision_family

# Of those that do something else than Llama between the embedding and the log-probabilities.
FAMILIES = ["cohere", "gemma2", "gemma3", "granite", "olmo2", "phi3", "qwen3_moe", "smollm3"]
SMALL = PassLimits(tokens=64, logits=3 * SHAPE["vocab_size"])


@dataclass(frozen=True)
class Measured:
    logprobs_BC: Tensor

    def __add__(self, other: Measured) -> Measured:
        return Measured(torch.cat([self.logprobs_BC, other.logprobs_BC]))


@dataclass(frozen=True)
class SumOfLogprobs:
    """The loss is the sum of the log-probabilities."""

    rows: Any
    with_base: bool = False
    start: Any = Measured(torch.zeros(0, 5))

    def __call__(self, rows: Any, tokens: TokenScores, base_logprobs_BC: Tensor | None) -> tuple[Tensor, Measured]:
        return tokens.logprobs_BC.sum(), Measured(tokens.logprobs_BC.detach())


@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_and_gradients_are_those_of_the_models_own_logits(tmp_path: Path, name: str) -> None:
    path = save_family(tmp_path / name, name)
    factors = build_factors(path, progress=False)
    merged = Merged(path, factors, 1)
    causal_lm = load_base_model(path, torch.float32).eval()
    check_logits(causal_lm)
    model = TrainableAdapters(causal_lm, factors)
    handle = model.add(merged.adapters[0])
    ids_PT = torch.randint(3, SHAPE["vocab_size"], (4, 25), generator=torch.Generator().manual_seed(2))
    ids_PT[1, :20] = ids_PT[0, :20]  # two completions of one prompt
    batch = [TokenSequence(handle, ids_T[:20].tolist(), ids_T[20:].tolist(), 0.7) for ids_T in ids_PT]
    (measured,) = forward_backward(model, [Task(batch, SumOfLogprobs(range(4)))], SMALL)
    got = model.vector(handle).grad

    def logprobs(logits_PTV: Tensor) -> Tensor:
        return (logits_PTV[:, 19:-1] / 0.7).log_softmax(-1).gather(-1, ids_PT[:, 20:, None])[..., 0]

    expected_BC = logprobs(torch.stack([merged.logits(ids_T.tolist(), 0) for ids_T in ids_PT]))
    torch.testing.assert_close(measured.logprobs_BC.sort(0)[0], expected_BC.sort(0)[0], rtol=1e-4, atol=1e-4)
    model.vector(handle).grad = None
    with model.rows([handle] * 4):
        logprobs(causal_lm(input_ids=ids_PT).logits).sum().backward()
    expected = model.vector(handle).grad
    assert expected is not None
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_families_that_scale_or_cap_their_logits_are_read_from_their_configuration(tmp_path: Path) -> None:
    shapes = {
        name: logit_shape(load_base_model(save_family(tmp_path / name, name), torch.float32))
        for name in ("granite", "gemma2", "cohere", "phi3")
    }
    assert shapes == {
        "granite": LogitShape(scale=0.25),
        "gemma2": LogitShape(cap=8.0),
        "cohere": LogitShape(scale=0.0625),
        "phi3": LogitShape(),
    }


class TwiceTheLogits(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output


def test_a_model_that_does_something_else_to_its_logits_cannot_be_trained_on(tmp_path: Path) -> None:
    path = save_family(tmp_path / "llama", "llama")
    for dtype in (torch.float32, torch.bfloat16):
        check_logits(load_base_model(path, dtype))
        with pytest.raises(AdapterError, match="TwiceTheLogits changes its logits"):
            check_logits(TwiceTheLogits.from_pretrained(path, dtype=dtype))


@pytest.mark.parametrize("name", [*VISION])
def test_models_that_read_images_are_trained_on_by_texts(tmp_path: Path, name: str) -> None:
    path = save_vision_family(tmp_path / name, name)
    config = AutoConfig.from_pretrained(path)
    factors = build_factors(path, progress=False)
    assert len(factors.modules) == 2 * 7  # the text model's, not the tower's
    causal_lm = load_base_model(path, torch.float32)
    check_logits(causal_lm)
    assert weights_bytes(config, torch.float32) == 4 * sum(one.numel() for one in causal_lm.parameters())
    assert pass_bytes(config, torch.float32, checkpointing=False).per_token > 0

    recipe = default_recipe(factors)
    vector = 0.5 * torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(5))
    adapter = Adapter.from_vector(vector, recipe, factors.digest, "float32")
    ids_T = torch.randint(3, 200, (25,), generator=torch.Generator().manual_seed(2))
    # transformers' own answer, with the adapter added to its weights
    merged = load_base_model(path, torch.float32)
    names = names_in(merged, factors.modules)
    assert names.keys() != set(names.values())
    with torch.no_grad():
        base_TV = merged(input_ids=ids_T[None]).logits[0].log_softmax(-1)
        for module, name_there in names.items():
            merged.get_submodule(name_there).weight.data += delta_weight(adapter, factors, module)
        expected_TV = merged(input_ids=ids_T[None]).logits[0].log_softmax(-1)
    expected = [expected_TV[place - 1, ids_T[place]] for place in range(20, 25)]
    assert not torch.allclose(base_TV, expected_TV, atol=1e-2)

    model = TrainableAdapters(causal_lm, factors)
    handle = model.add(adapter)
    batch = [TokenSequence(handle, ids_T[:20].tolist(), ids_T[20:].tolist(), 1.0)]
    measured = forward_backward(model, [Task(batch, SumOfLogprobs(range(1)))], SMALL)[0]
    torch.testing.assert_close(measured.logprobs_BC[0], torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert model.vector(handle).grad is not None and bool(model.vector(handle).grad.abs().sum() > 0)


def test_a_model_without_a_head_for_texts_is_refused() -> None:
    with pytest.raises(
        AdapterError, match=r"CLIPVisionConfig\. Training with gradients, and factors of quantised models, need it"
    ):
        auto_class(CLIPVisionConfig())
