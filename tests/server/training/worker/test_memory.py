"""The formula for a worker's memory, against tensors counted while the trainer's pass runs, and against a GPU."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.build import build_factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.activation_checkpointing import activation_checkpointing
from server.training.worker.forward import Task, forward_backward
from server.training.worker.live_bytes import LiveBytes
from server.training.worker.memory import PassBytes, pass_bytes, weights_bytes, worker_bytes
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from server.training.worker.sft_objective import sft_objective

SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 448,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
QWEN_7B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    tie_word_embeddings=False,
)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        pytest.param(LlamaConfig(**SHAPE), torch.float32, id="llama-float32"),
        pytest.param(LlamaConfig(**SHAPE), torch.bfloat16, id="llama-bfloat16"),
        pytest.param(Qwen3Config(**SHAPE, head_dim=32), torch.bfloat16, id="qwen3-bfloat16"),
    ],
)
def test_a_pass_takes_as_much_as_the_formula_says(tmp_path: Path, config: PreTrainedConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    factors = build_factors(tmp_path, rank=2, progress=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert weights_bytes(config, dtype) == sum(weight.numel() * dtype.itemsize for weight in model.parameters())

    adapters = TrainableAdapters(model, factors)
    handle = adapters.add(Adapter(Recipe(), factors.digest, "bfloat16", bytes(26)))
    # Completions of one prompt, which share a row and need a mask, and a sequence of its own.
    for batch in ([TokenSequence(handle, [1], [5] * 100)] * 4, [TokenSequence(handle, [1], [5] * 400)]):
        tokens = sum(len(sequence.completion) for sequence in batch)
        for checkpointing in (False, True):
            with LiveBytes() as live, activation_checkpointing(model, checkpointing):
                forward_backward(adapters, [Task(batch, sft_objective(batch))], PassLimits(tokens=1000))
            # Never less; with few layers what the formula adds for gradients within a layer weighs more than in
            # models of the usual size.
            assert 1 <= pass_bytes(config, dtype, checkpointing).of(tokens) / live.peak < 1.5
            # Nothing is kept but the gradient of the vector.
            assert live.now < 1000


# Most that PyTorch had allocated on an H200 in bfloat16, in GiB, with rows of 2600 tokens.
@pytest.mark.parametrize(("rows", "measured_gib"), [(1, 27.5), (3, 51.4), (6, 87.7)])
def test_the_formula_is_what_a_gpu_was_measured_to_take(rows: int, measured_gib: float) -> None:
    tokens = rows * 2600
    weights, in_pass = weights_bytes(QWEN_7B, torch.bfloat16), pass_bytes(QWEN_7B, torch.bfloat16, False).of(tokens)
    # Then every layer kept a mask of its own, 2600 numbers for each token.
    masks = QWEN_7B.num_hidden_layers * tokens * 2600 * 2
    assert (weights + in_pass + masks) / 2**30 == pytest.approx(measured_gib, rel=0.015)


def test_seven_billion_parameters_train_on_a_card_of_24_gb_with_checkpointing() -> None:
    row = 1000 + 4000
    assert worker_bytes(QWEN_7B, torch.bfloat16, row, checkpointing=True) < 20 * 2**30
    assert worker_bytes(QWEN_7B, torch.bfloat16, row, checkpointing=False) > 24 * 2**30


@pytest.mark.parametrize("memory", [PassBytes(1000, 10), PassBytes(1000, 100_000), PassBytes(4_000_000, 152_064)])
@pytest.mark.parametrize("size", [0, 5000, 10**7, 10**9, 10**11])
def test_the_tokens_in_a_size_are_the_most_that_fit(memory: PassBytes, size: int) -> None:
    tokens = memory.tokens_in(size)
    assert memory.of(tokens) <= size < memory.of(tokens + 1)
