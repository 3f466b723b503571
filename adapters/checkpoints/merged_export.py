"""Exporting a base model with an adapter merged into its weights, for software that knows no adapters at all.

The weights files are read and written one after the other, so memory holds the largest of them. What else is in the
model's directory (configuration, tokenizer, chat template) is copied.

Rounding W + delta W to 16 bits loses what of a small delta is below the weights' last digit: it is measured and told.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from adapters.apply.reconstruct import merge
from adapters.factors.factors import Factors
from adapters.factors.model_directory import weight_files
from adapters.factors.model_files import read_model
from adapters.factors.progress import shown
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError

CONFIG = "config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Merged:
    """Where the model is, and which share of the update rounding lost: |W' - (W + delta W)| / |delta W| over all."""

    directory: Path
    loss: float


def export_merged(
    adapter: Adapter, factors: Factors, model: Path, directory: Path, dtype: str | None = None, *, progress: bool = True
) -> Merged:
    """Write the model in the directory `model` with `adapter` merged into it to `directory`, whole or not at all.

    dtype: of the weights, one of DTYPES; None: each as it was. Raises FactorsError: a quantised model, an adapter of
    other factors, weights that are not those of the factors; FileExistsError when something is in `directory`.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not empty; name another directory")
    names = {weight.module for weight in read_model(model).weights}
    if names != set(factors.modules):
        raise FactorsError(f"{model} has other modules than the factors of {factors.base_model}", field="model")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        written = Path(scratch) / "model"
        _copy_rest(model, written, dtype)
        sums = _merge_files(model, written, adapter, factors, dtype)
        if progress:
            sums = shown(sums, len(factors.modules), "Merging")
        lost, update = map(sum, zip(*sums, strict=True))
        if directory.exists():
            directory.rmdir()
        written.chmod(0o755)
        written.rename(directory)
    return Merged(directory, (lost / update) ** 0.5 if update else 0.0)


def _merge_files(
    model: Path, to: Path, adapter: Adapter, factors: Factors, dtype: str | None
) -> Iterator[tuple[float, float]]:
    """Write the weights files; of every module the sums of squares of what rounding lost, and of the update."""
    modules = set(factors.modules)
    for file in weight_files(model):
        tensors: dict[str, Tensor] = {}
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118, not a dict
                weight: Tensor = weights.get_tensor(name)
                kept = DTYPES[dtype] if dtype is not None and weight.is_floating_point() else weight.dtype
                module = name.removesuffix(".weight")
                if module not in modules:
                    tensors[name] = weight.to(kept)
                    continue
                exact_OI = merge(weight.float(), adapter, factors, module)
                tensors[name] = exact_OI.to(kept)
                lost = (tensors[name].float() - exact_OI).square().sum()
                yield float(lost), float((exact_OI - weight.float()).square().sum())
        safetensors.torch.save_file(tensors, to / file.name, metadata={"format": "pt"})
        (to / file.name).chmod(0o644)


def _copy_rest(model: Path, to: Path, dtype: str | None) -> None:
    """All files but weights; the directory of factors, which are of other weights now, is left behind."""
    to.mkdir()
    for path in sorted(model.iterdir()):
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pth", ".gguf"):
            shutil.copyfile(path, to / path.name)
    if dtype is not None:
        config = json.loads((to / CONFIG).read_text())
        config.pop("torch_dtype", None)
        (to / CONFIG).write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n")
