"""Part of benchmarks.gpu: an update of the trainer on a model without weights of its own, beside its limit and PEFT.

What they are, benchmarks.train_step says. Here they come one after the other and are recorded as they come: PEFT has a
copy of the model, for which there is room once ours is gone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from filelock import FileLock
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.factors.factors import Factors
from benchmarks.dummy_model import RANK, write_dummy_model
from benchmarks.gpu_options import Options
from benchmarks.train_step import limit_and_ours, padded_passes, timed
from server.training.worker.device_memory import device_memory
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits

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
