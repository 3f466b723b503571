"""The files of a checkpoint that PEFT saved, or of a safetensors file of this server, as a form's parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def peft_files(path: Path) -> Mapping[str, tuple[str, bytes]]:
    """Form field -> file name and content. FileNotFoundError says which file is missing, and how to make it."""
    tensors = path / TENSORS if path.is_dir() else path
    config = tensors.with_name(CONFIG)
    if not tensors.is_file():
        other = next((name for name in ("adapter_model.bin", "adapter_model.pt") if (path / name).exists()), None)
        hint = f"; there is {other}: save it again with safe_serialization=True" if other else ""
        raise FileNotFoundError(f"{path} has no {TENSORS}{hint}")
    files = {"file": (tensors.name, tensors.read_bytes())}
    # Beside a single file of another name it may belong to something else.
    if config.is_file() and tensors.name == TENSORS:
        files["config"] = (CONFIG, config.read_bytes())
    elif path.is_dir():
        raise FileNotFoundError(f"{path} has no {CONFIG}, which PEFT writes beside {TENSORS}")
    return files
