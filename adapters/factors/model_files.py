"""The weights of a Hugging Face causal LM, as far as factors need them: which are adapted, and whether they changed.

Modules are found by their names in the safetensors headers, and weights are read one at a time, so no model class is
needed and memory is bounded by the largest weight. A linear that a model fuses (Phi-3's qkv_proj and gate_up_proj) is
one module, as it is one `nn.Linear`. What else a layer computes with (experts, a router, the linears of a recurrence)
is left out and named in `ModelFiles.left_out`.

Design decision: the fingerprint is of contents, not of modification times, so a copied model directory keeps its
factors. It reads all of small weights and some rows of large ones: training, merging and quantizing change it, an edit
confined to a few rows may not.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adapters.factors.model_directory import layer_count, name_of, read_config, weight_files
from adapters.vector.errors import FactorsError

# In the order in which a layer's modules are listed.
MODULE_TYPES = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj",
)  # fmt: skip
_WEIGHT = re.compile(
    rf"(?P<stack>.*?)layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<type>{'|'.join(MODULE_TYPES)})\.weight"
)
_MATRIX = re.compile(r"(?P<stack>.*?)layers\.(?P<layer>\d+)\.(?P<path>.+?)(?:\.weight)?")
_QUANTISED = re.compile(r".*layers\.\d+\..*\.(qweight|weight_packed|weight_scale|weight_scale_inv|SCB)")
FLOATS = ("F64", "F32", "F16", "BF16")
_WHOLE_BYTES = 2**20
_SAMPLED_ROWS = 9


@dataclass(frozen=True, slots=True)
class Weight:
    """One adapted weight (out, in): the module's Hugging Face name and the safetensors file it is in."""

    module: str
    file: Path
    shape: tuple[int, int]
    dtype: str

    def read(self, device: str = "cpu") -> Tensor:
        """A copy of the weight on `device`, float32 (out, in)."""
        with safe_open(self.file, framework="pt", device=device) as file:
            weight: Tensor = file.get_tensor(f"{self.module}.weight")
            return weight.to(torch.float32, copy=True)

    def sample(self) -> bytes:
        """The bytes that enter the fingerprint: all, or some rows of a large weight."""
        with safe_open(self.file, framework="pt") as file:
            rows = file.get_slice(f"{self.module}.weight")
            if rows[:1].nbytes * self.shape[0] <= _WHOLE_BYTES:
                return _raw(rows[:])
            last = self.shape[0] - 1
            starts = [last * step // (_SAMPLED_ROWS - 1) for step in range(_SAMPLED_ROWS)]
            return b"".join(_raw(rows[start : start + 1]) for start in starts)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`weights` in depth order, within a layer as MODULE_TYPES. `name` is the hub id, or the directory's name.

    left_out: other parts of the layers that have matrices, and so are not adapted: names within a layer, `mlp.experts`.
    """

    directory: Path
    name: str
    config_sha256: str
    weights: tuple[Weight, ...]
    left_out: tuple[str, ...]

    def fingerprint(self) -> str:
        """SHA-256 hex over names, shapes, dtypes and samples of the adapted weights."""
        digest = hashlib.sha256()
        for weight in self.weights:
            digest.update(f"{weight.module} {weight.shape} {weight.dtype}\n".encode())
            digest.update(weight.sample())
        return digest.hexdigest()


def read_model(directory: Path) -> ModelFiles:
    """The adapted weights of the model in `directory`. FactorsError when something is missing or not supported."""
    config_bytes, config = read_config(directory)
    count = layer_count(directory, config)
    stacks: dict[str, dict[int, _Layer]] = {}
    for path in weight_files(directory):
        for stack, number, part in _scan(path):
            layer = stacks.setdefault(stack, {}).setdefault(number, _Layer())
            if isinstance(part, Weight):
                layer.weights[part.module.rpartition(".")[2]] = part
            else:
                layer.others.add(part)
    layers = _stack(stacks, count, directory)
    _check_same_modules(layers, directory)
    ordered = tuple(layer.weights[kind] for layer in layers for kind in layer.types)
    left_out = tuple(sorted(set().union(*(layer.others for layer in layers))))
    return ModelFiles(directory, name_of(directory), hashlib.sha256(config_bytes).hexdigest(), ordered, left_out)


@dataclass(frozen=True, slots=True)
class _Layer:
    """weights: the adapted ones, by the last part of their names. others: what else has matrices."""

    weights: dict[str, Weight] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)

    @property
    def types(self) -> list[str]:
        return [kind for kind in MODULE_TYPES if kind in self.weights]


def _stack(stacks: Mapping[str, Mapping[int, _Layer]], count: int, directory: Path) -> list[_Layer]:
    """The layers of the one stack that has `count` of them. A vision tower beside it has another number, or fewer
    adapted weights, because its MLPs have other names."""
    adapted = {name: layers for name, layers in stacks.items() if any(layer.weights for layer in layers.values())}
    # Layers behind the last one only draft tokens, and are not part of the model.
    whole = [layers for layers in adapted.values() if layers.keys() == set(range(count))] or [
        layers for layers in adapted.values() if layers.keys() > set(range(count))
    ]
    sizes = [sum(len(layer.types) for layer in layers.values()) for layers in whole]
    whole = [layers for layers, size in zip(whole, sizes, strict=True) if size == max(sizes)]
    if len(whole) != 1:
        found = ", ".join(f"{name}layers ({len(layers)})" for name, layers in adapted.items())
        other = ", ".join(
            sorted({part for layers in stacks.values() for one in layers.values() for part in one.others})
        )
        raise FactorsError(
            f"{directory}: expected one stack of {count} layers with linears such as self_attn.q_proj or mlp.up_proj, "
            f"found {found or 'none'}{f' (other matrices: {other:.300})' if other else ''}; this kind of model is not "
            "supported, or a weight file is missing"
        )
    return [whole[0][number] for number in range(count)]


def _check_same_modules(layers: Sequence[_Layer], directory: Path) -> None:
    """FactorsError unless layers of one kind have the same modules. Their other matrices say of which kind they are:
    experts instead of a dense MLP, a recurrence instead of attention."""
    first: dict[frozenset[str], int] = {}
    for number, layer in enumerate(layers):
        like = first.setdefault(frozenset(layer.others), number)
        if layer.types != layers[like].types:
            raise FactorsError(
                f"{directory}: layer {number} has {layer.types}, layer {like} has {layers[like].types}; layers of one "
                "kind must have the same modules, so this kind of model is not supported, or a weight file is missing"
            )


def _scan(path: Path) -> list[tuple[str, int, Weight | str]]:
    """Of every matrix in a layer: its stack, the layer, and the weight, or the part of the layer that is left out."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, not a dict
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise FactorsError(f"{path} is not a readable safetensors file: {error}; download it again") from error
    result: list[tuple[str, int, Weight | str]] = []
    for name, (shape, dtype) in found.items():
        if _QUANTISED.fullmatch(name):
            raise FactorsError(
                f"{path} holds quantised weights ({name}); build the factors from the original weights: serve "
                "it with --factors-from ORIGINAL, the model that it was made from or a file of its factors"
            )
        if match := _WEIGHT.fullmatch(name):
            if dtype not in FLOATS or len(shape) != 2:
                raise FactorsError(
                    f"{name} in {path} is {dtype} {shape}, expected a matrix in {', '.join(FLOATS)}; build the "
                    "factors from the original, not quantised, weights"
                )
            weight = Weight(name.removesuffix(".weight"), path, (shape[0], shape[1]), dtype)
            result.append((match["stack"], int(match["layer"]), weight))
        elif len(shape) > 1 and not name.endswith("bias") and (match := _MATRIX.fullmatch(name)):
            result.append((match["stack"], int(match["layer"]), _part(match["path"])))
    return result


def _part(path: str) -> str:
    """`mlp.experts` of mlp.experts.3.up_proj, `mlp.shared_expert` of mlp.shared_expert.up_proj."""
    parts = list(takewhile(lambda part: not part.isdigit(), path.split(".")))
    if len(parts) > 1 and parts[-1] in MODULE_TYPES:
        parts.pop()
    return ".".join(parts)


def _raw(rows: Tensor) -> bytes:
    return rows.contiguous().view(torch.uint8).numpy().tobytes()
