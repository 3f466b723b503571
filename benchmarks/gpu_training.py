"""Part of benchmarks.gpu: an update of the trainer on a model without weights of its own, beside its limit and PEFT.

What they are, benchmarks.train_step says. Here they come one after the other and are recorded as they come: PEFT has a
copy of the model, for which there is room once ours is gone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from filelock import FileLock
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.factors.factors import Factors
from benchmarks.dummy_model import RANK, write_dummy_model
from benchmarks.gpu_machine import machine, with_layers_that_fit
from benchmarks.gpu_options import Options
from benchmarks.train_step import limit_and_ours, padded_passes, timed
from server.training.worker.device_memory import device_memory
from server.training.worker.memory import pass_bytes
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits

# The largest whose activations an 80 GB card holds beside a 7B; fewer on a smaller one.
PASS_TOKENS = 8192
# Of a card, for weights; and of what they leave, for a pass: PEFT's takes more than ours, by which it is sized.
WEIGHTS_SHARE, PASS_SHARE = 0.5, 0.6


def run(options: Options) -> None:
    """Measure and record all three."""
    options.results.record("machine", value=machine())
    directory = options.directory / "training-model"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = PASS_TOKENS
    if device == "cuda":
        room = torch.cuda.get_device_properties(0).total_memory
        shape = with_layers_that_fit(options.shape, lambda shape: 2 * shape.parameters(), int(WEIGHTS_SHARE * room))
        options = replace(options, shape=shape)
    factors = write_dummy_model(directory, options.shape)
    if device == "cuda":
        left = PASS_SHARE * (room - 2 * options.shape.parameters())
        formula = pass_bytes(AutoConfig.from_pretrained(directory), torch.bfloat16, checkpointing=False)
        tokens = min(tokens, formula.tokens_in(int(left)))
    options.results.record("layers", "training", value=options.shape.layers)
    options.results.record("tokens in a pass", value=tokens)
    batch = _ours(options, directory, factors, device, tokens)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    peft = get_peft_model(_random_model(directory, device), LoraConfig(r=RANK, target_modules=list(factors.modules)))
    _record(options, "PEFT, LoRA of rank 2", device, lambda: padded_passes(peft, batch, tokens))


def _ours(options: Options, directory: Path, factors: Factors, device: str, tokens: int) -> list[TokenSequence]:
    """The limit and ours; returns the sequences of the update."""
    sizes = PassLimits(tokens=tokens)
    batch, runs = limit_and_ours(_random_model(directory, device), factors, options.update, sizes)
    for name, update in runs.items():
        _record(options, name, device, update)
    return batch


def _random_model(directory: Path, device: str) -> Any:
    with torch.device(device):
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=dtype).eval()


def _record(options: Options, name: str, device: str, update: Callable[[], object]) -> None:
    with FileLock(options.card):
        _, peak = device_memory(device, None).peak_of(update)  # which warms up, too
        seconds = [timed(update) for _ in range(options.rounds)]
    value = {"seconds": round(median(seconds), 3), "bytes_beside_weights": peak}
    options.results.record("training", name, value=value)
