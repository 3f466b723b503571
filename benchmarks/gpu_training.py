"""Part of benchmarks.gpu: an update of the trainer on a model without weights of its own, beside its limit and PEFT.

What they are, benchmarks.train_step says. Here they come one after the other and are recorded as they come: PEFT has a
copy of the model, for which there is room once ours is gone.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from filelock import FileLock
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from benchmarks.dummy_model import RANK, write_dummy_model
from benchmarks.gpu_options import Options
from benchmarks.train_step import own_passes, padded_passes, random_batch, timed
from server.training.worker.device_memory import device_memory
from server.training.worker.forward import Task, forward_backward
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from server.training.worker.sft_objective import sft_objective

# The largest whose activations an 80 GB card holds beside a 7B.
PASS_TOKENS = 8192


def run(options: Options) -> None:
    """Measure and record all three."""
    directory = options.directory / "training-model"
    factors = write_dummy_model(directory, options.shape)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = _ours(options, directory, factors, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    peft = get_peft_model(_random_model(directory, device), LoraConfig(r=RANK, target_modules=list(factors.modules)))
    _record(options, "PEFT, LoRA of rank 2", device, lambda: padded_passes(peft, batch, PASS_TOKENS))


def _ours(options: Options, directory: Path, factors: Factors, device: str) -> list[TokenSequence]:
    """The limit and ours; returns the sequences of the update."""
    sizes = PassLimits(tokens=PASS_TOKENS)
    model = TrainableAdapters(_random_model(directory, device), factors)
    recipe = Recipe(groups=min(13, len(factors.modules)))
    handle = model.add(Adapter(recipe, factors.digest, "float32", bytes(4 * recipe.num_parameters)))
    prompts, completions, prompt_tokens, completion_tokens = options.update
    asked = argparse.Namespace(
        prompts=prompts, completions=completions, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
    )
    batch = random_batch(asked, handle, model.model)
    task = Task(batch, sft_objective(batch))
    _record(options, "limit", device, lambda: own_passes(model, batch, sizes))
    _record(options, "ours", device, lambda: forward_backward(model, [task], sizes))
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
