"""A model over several GPUs: where its parts go, that every product finds its operands on one device, and that what
accelerate's hooks do changes no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from adapters.apply.reconstruct import matrices
from adapters.apply.trainable import BASE, TrainableAdapters
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.forward import Task, forward_backward
from server.training.worker.memory import weights_bytes
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import DEFAULT_LIMITS, DoesNotFit, PassLimits, PassPlan, PassSizes
from server.training.worker.placement import place
from server.training.worker.sft_objective import sft_objective
from tests.adapters.tiny_models import load_model, save_model

BF16 = torch.bfloat16


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, tie_word_embeddings=request.param,
    )  # fmt: skip


def bytes_on(config: PreTrainedConfig, placed: dict[str, int], gpu: int) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=BF16)
    names = [name for name, where in placed.items() if where == gpu]
    inside = [weight for key, weight in model.named_parameters() if any(key.startswith(f"{name}.") for name in names)]
    return sum(weight.nbytes for weight in inside)


def test_a_model_that_fits_is_on_one_gpu_the_freest(config: PreTrainedConfig) -> None:
    weights = weights_bytes(config, BF16)
    assert place(config, BF16, [2 * weights, 3 * weights, weights]) == {"": 1}


def test_a_larger_one_is_spread_by_whole_layers_over_as_few_as_hold_it(config: PreTrainedConfig) -> None:
    weights = weights_bytes(config, BF16)
    placed = place(config, BF16, [int(0.8 * weights)] * 4)
    assert set(placed.values()) == {0, 1}
    assert all(bytes_on(config, placed, gpu) <= 0.9 * 0.8 * weights for gpu in (0, 1))
    assert sum(bytes_on(config, placed, gpu) for gpu in (0, 1)) == weights
    layers = [placed[f"model.layers.{layer}"] for layer in range(8)]
    # A pass goes from one to the next once.
    assert layers == sorted(layers)
    # Neither has much more of them than the other.
    assert abs(layers.count(0) - layers.count(1)) <= 2


def test_a_gpu_with_little_left_has_little_of_it(config: PreTrainedConfig) -> None:
    weights = weights_bytes(config, BF16)
    placed = place(config, BF16, [int(0.45 * weights), int(0.95 * weights)])
    assert 0 < bytes_on(config, placed, 0) <= 0.9 * 0.45 * weights


def test_a_model_for_which_all_are_too_small_is_refused_with_the_sum(config: PreTrainedConfig) -> None:
    with pytest.raises(DoesNotFit, match=r"weights of the model take .* GiB, .*CUDA_VISIBLE_DEVICES"):
        place(config, BF16, [weights_bytes(config, BF16) // 3] * 2)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("placed"))


@pytest.fixture(scope="module")
def factors(path: Path) -> Factors:
    return build_factors(path, progress=False)


def two_adapters(factors: Factors) -> list[Adapter]:
    recipe = Recipe(groups=2)
    vectors = [torch.full((2, recipe.u), 0.3), torch.full((2, recipe.u), -0.2)]
    return [Adapter.from_vector(v_GU, recipe, factors.digest, "float32") for v_GU in vectors]


def gradient(model: Any, factors: Factors, sizes: PassSizes = DEFAULT_LIMITS) -> torch.Tensor:
    """Of the vectors of both adapters in one pass, with several completions of a prompt in a row."""
    adapters = TrainableAdapters(model, factors)
    handles = [adapters.add(adapter) for adapter in two_adapters(factors)]
    batch = [TokenSequence(handles[i // 2], [5, 7, 9 + i // 2], [11 + i, 13, 2 * i]) for i in range(4)]
    forward_backward(adapters, [Task(batch, sft_objective(batch))], sizes)
    adapters.close()
    return torch.stack([cast(Tensor, adapters.vector(handle).grad) for handle in handles])


class Checkpointed(PassLimits):
    """Passes of the same size, whose activations are computed again."""

    def plan(self, longest: int, total: int) -> PassPlan:
        return PassPlan(self.tokens, checkpointing=True)


PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")


def test_a_dispatched_model_gives_the_same_gradient(path: Path, factors: Factors) -> None:
    expected = gradient(load_model(path), factors)
    dispatched = dispatch_model(load_model(path), dict.fromkeys(PARTS, "cpu"), main_device="cpu", force_hooks=True)
    assert hasattr(dispatched.model.layers[1], "_hf_hook")
    assert torch.equal(gradient(dispatched, factors), expected)
    assert expected.abs().min() > 0


def test_what_moves_a_pass_from_one_gpu_to_the_next_is_there_after_checkpointing(path: Path, factors: Factors) -> None:
    expected = gradient(load_model(path), factors)
    dispatched: Any = load_model(path)
    moved: list[nn.Module] = []

    class Moving(AlignDevicesHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            moved.append(module)
            return super().pre_forward(module, *args, **kwargs)

    layers = list(dispatched.model.layers)
    for layer in layers:
        add_hook_to_module(layer, Moving(execution_device="cpu"))
    for _ in range(2):
        moved.clear()
        torch.testing.assert_close(gradient(dispatched, factors, Checkpointed()), expected)
        assert moved == layers + layers[::-1]  # forward, and again in the backward pass


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_two_gpus_it_is_the_same_too(path: Path, factors: Factors) -> None:
    placed = dict(zip(PARTS, (0, 0, 0, 1, 1, 1), strict=True))
    spread = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map=placed)
    torch.testing.assert_close(gradient(spread, factors), gradient(load_model(path), factors), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("split", [1, 3, 4])
def test_adapters_are_where_the_weights_are(path: Path, factors: Factors, split: int) -> None:
    """With tensors that have no numbers but a device each, of which there are two; a product of both is an error."""
    where = {name: "cpu" if place < split else "meta" for place, name in enumerate(PARTS)}
    made = two_adapters(factors)
    for adapter in made:
        matrices(adapter, factors)  # what it keeps of a recipe has to have numbers
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path)).eval()
        for name, device in where.items():
            _move(model.get_submodule(name), device)
            # As accelerate does for every part of a model on several GPUs.
            add_hook_to_module(model.get_submodule(name), AlignDevicesHook(execution_device=device))
        adapters = TrainableAdapters(model, factors)
        handles = [adapters.add(adapter) for adapter in made]
        with adapters.rows([handles[1], BASE, handles[0]]):
            logits = model(input_ids=torch.zeros(3, 5, dtype=torch.int64)).logits
            assert logits.device.type == where["lm_head"]
            logits.sum().backward()
    for handle in handles:
        vector = adapters.vector(handle)
        assert vector.grad is not None and vector.grad.device.type == "cpu"


def _move(part: nn.Module, device: str) -> None:
    for module in part.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(weight, device=device)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=device))
