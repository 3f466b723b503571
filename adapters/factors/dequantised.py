"""The weights of a quantised checkpoint, one at a time, as the numbers that they stand for.

Two kinds can be read: compressed-tensors, by its own library, and AWQ as AutoAWQ writes it for GEMM kernels:

    qweight  int32 (in, out / 8)           eight 4-bit integers q in each
    qzeros   int32 (in / width, out / 8)   their zero points z, one for `width` inputs
    scales   float (in / width, out)       and by what they are multiplied:  W^T = (q - z) * scales

In each int32 the bits of output 8 k + i are at 4 * order[i], with order = 0, 4, 1, 5, 2, 6, 3, 7.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adapters.factors.model_directory import weight_files
from adapters.vector.errors import FactorsError

READABLE = ("awq", "compressed-tensors")
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
_AWQ_SYMMETRIC_ZERO = 8


def quantisation(directory: Path) -> Mapping[str, Any]:
    """`quantization_config` of the model in `directory`; empty for one that is not quantised."""
    found = json.loads((directory / "config.json").read_bytes()).get("quantization_config")
    return found if isinstance(found, dict) else {}


class UnreadableWeights(FactorsError):
    """The weights are in a form that is not known here."""


@dataclass(frozen=True, slots=True)
class DequantisedWeights:
    """places: the file of every tensor. model: without weights; its linears say which scheme is theirs."""

    directory: Path
    config: Mapping[str, Any]
    places: Mapping[str, Path]
    model: nn.Module

    @classmethod
    def of(cls, directory: Path, model: nn.Module) -> "DequantisedWeights":
        """UnreadableWeights when the kind is none of READABLE, naming it."""
        config = quantisation(directory)
        kind = config.get("quant_method")
        if kind == "awq" and str(config.get("version", "gemm")).lower() != "gemm":
            kind = f"awq in the layout {config['version']}"
        if kind == "awq" and config.get("bits", config.get("w_bit", 4)) != 4:
            kind = f"awq of {config.get('bits', config.get('w_bit'))} bits"
        if kind not in READABLE:
            raise UnreadableWeights(f"{directory} is quantised by {kind!r:.80}, which cannot be read here")
        places: dict[str, Path] = {}
        for path in weight_files(directory):
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        return cls(directory, config, places, model)

    def read(self, module: str) -> Tensor:
        """The weight of `module`, float32 (out, in), also where it was left unquantised. UnreadableWeights."""
        tensors: dict[str, Tensor] = {}
        for name, path in self.places.items():
            if name.rpartition(".")[0] == module:
                with safe_open(path, framework="pt") as file:
                    tensors[name.rpartition(".")[2]] = file.get_tensor(name)
        try:
            if "weight" in tensors and "weight_scale" not in tensors:
                return tensors["weight"].float()
            if self.config["quant_method"] == "awq":
                return _awq_weight(tensors)
            return self._compressed_weight(module, tensors)
        except (AttributeError, KeyError, ValueError, RuntimeError, StopIteration) as error:
            raise UnreadableWeights(
                f"{self.directory}: the weight of {module} cannot be read from {sorted(tensors)}: {error!r:.200}"
            ) from error

    def _compressed_weight(self, module: str, tensors: Mapping[str, Tensor]) -> Tensor:
        # It imports transformers' integrations: seconds that a server of an ordinary model need not wait.
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils import is_match

        config = QuantizationConfig.model_validate(self.config)
        linear = self.model.get_submodule(module)
        scheme = next(one for one in config.config_groups.values() if is_match(module, linear, one.targets))
        layout = scheme.format or config.format
        compressor = BaseCompressor.get_value_from_registry(getattr(layout, "value", layout))
        plain: Tensor = compressor.decompress(dict(tensors), scheme)["weight"]
        return plain.float()


def _awq_weight(tensors: Mapping[str, Tensor]) -> Tensor:
    scales_GO = tensors["scales"].float()
    weight_IO = _integers(tensors["qweight"])
    weight_GWO = weight_IO.view(len(scales_GO), -1, scales_GO.shape[1])
    weight_GWO -= _integers(tensors["qzeros"])[:, None] if "qzeros" in tensors else _AWQ_SYMMETRIC_ZERO
    weight_GWO *= scales_GO[:, None]
    return weight_IO.T


def _integers(packed_XP: Tensor) -> Tensor:
    """float32 (X, 8 P)."""
    unpacked_XP8 = torch.empty(*packed_XP.shape, 8)
    for place, order in enumerate(_AWQ_ORDER):
        unpacked_XP8[..., place] = (packed_XP >> 4 * order) & 15
    return unpacked_XP8.flatten(-2)
