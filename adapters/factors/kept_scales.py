"""The scales of a quantised checkpoint (channel_scales.py) in a file beside it, and factors seen through them.

Finding them takes a pass over two models' weights, so they are kept, under a name that says of which checkpoint and of
which original they are. The engine's processes read the same file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adapters.factors.build import cache_directories, first_writable
from adapters.factors.factors import Factors, write_atomically
from adapters.factors.model_directory import weight_files

_NONE = "none"
_SAMPLES, _SAMPLE_BYTES = 32, 4096


def save_scales(quantised: Path, factors: Factors, scales: Mapping[str, Tensor]) -> Path:
    """Keep the scales `MODULE.in` and `MODULE.out` of a checkpoint, which may be none; `factors` are its original's."""
    fingerprint = _fingerprint(quantised)
    path = first_writable(cache_directories(quantised, fingerprint)) / _file_name(factors, fingerprint)
    content = {name: tensor.float().contiguous() for name, tensor in scales.items()}
    # safetensors writes no file without tensors that it would read again.
    write_atomically(path, safetensors.torch.save(content or {_NONE: torch.zeros(1)}))
    return path


def kept_scales(quantised: Path, factors: Factors) -> Path | None:
    """The file of those that were found before."""
    fingerprint = _fingerprint(quantised)
    for directory in cache_directories(quantised, fingerprint):
        path = directory / _file_name(factors, fingerprint)
        try:
            has_scales(path)
        except (OSError, SafetensorError):  # none, or damaged: finding them again replaces it
            continue
        return path
    return None


def has_scales(path: Path) -> bool:
    """Whether there are any in the file. OSError and SafetensorError as it is read."""
    return _NONE not in safetensors.torch.load_file(path)


def through_scales(factors: Factors, path: Path) -> Factors:
    """`factors` as a model with the scales in `path` sees them: the same digest, U and V scaled."""
    tensors = dict(factors.tensors)
    for name, scale_X in safetensors.torch.load_file(path).items():
        module, _, side = name.rpartition(".")
        matrix = f"{module}.{'V' if side == 'in' else 'U'}"
        tensors[matrix] = tensors[matrix] * scale_X[:, None]
    return replace(factors, tensors=tensors)


def _file_name(factors: Factors, fingerprint: str) -> str:
    return f"scales-{fingerprint[:32]}-{factors.weights_fingerprint[:32]}.safetensors"


def _fingerprint(directory: Path) -> str:
    """SHA-256 hex over the configuration and over samples of the files of weights, headers among them."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in weight_files(directory):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
