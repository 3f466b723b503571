"""What this machine's processor computes well."""

from __future__ import annotations

import platform

import torch


def computes_bfloat16() -> bool:
    """Whether bfloat16 is as fast as float32 or faster. On x86-64 without instructions for it, it is emulated."""
    return platform.machine() != "x86_64" or bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
