"""What a command that computes with torch runs on, from its option --device."""

from __future__ import annotations

from typing import Literal

from server.launch.start_checks import CannotStart


def torch_device(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """`auto` is a GPU if there is one. CannotStart for a GPU that is not there."""
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise CannotStart("PyTorch finds no CUDA GPU here; leave --device out, or set it to cpu")
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"
