"""By what a quantised model's linears see other inputs, and give other outputs, than those of its original.

AWQ and SmoothQuant multiply the columns of a weight by scales s before they round it, W' ~ W diag(s), and have whatever
produces the input divide by them: a norm, or the rows of the linear before (v_proj before o_proj, up_proj before
down_proj), whose outputs then are t = 1 / s times what they were. So with U S R V^T of the original,

    x' = x / s,    y' = t y,    delta' = diag(t) U S R (diag(s) V)^T x' = t delta

and the same adapters act on the quantised model, by the same numbers: V and U are seen through the scales.

Where a norm divides, s is exact: the ratio of the two norms' weights. Where a linear does, t is estimated from the
weights: the least-squares ratio of each of its rows to the original's, and of each column of the linear behind it,
joined as a geometric mean, in which what rounding and clipping take from both cancels. The error of a row's ratio is
e / sqrt(n), where e is what rounding left relative to the weight (0.11 with 4 bits in groups of 128) and n its length:
0.2 % for n = 4096. All of it takes a processor core some 20 ns for each weight of those linears: a minute for a 7B.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapters.factors.dequantised import DequantisedWeights
from adapters.factors.factors import Factors
from adapters.factors.model_directory import weight_files
from adapters.factors.model_files import read_model
from adapters.factors.progress import shown
from adapters.vector.errors import FactorsError

Reader = Callable[[str], Tensor]
Norms = Mapping[str, Tensor]

_FROM_ATTENTION_NORM = ("q_proj", "k_proj", "v_proj", "qkv_proj")
_FROM_MLP_NORM = ("gate_proj", "up_proj", "gate_up_proj")
# Share of a weight that scales do not explain. 4 bits leave 0.1 and 3 bits 0.25; of another or a rotated weight, 1.
_MOST_REST = 0.5
# Between two ratios that are the same but for rounding, in 95 of 100.
_MOST_MISMATCH = 0.15
# Ratios this near to 1 are those of a linear that was not scaled.
_UNSCALED = 0.02


@dataclass(frozen=True, slots=True)
class Pair:
    """A linear of which the last `rows` outputs are, but for factors that its consumer does not see, the inputs of
    another: `repeats` times, by heads of `head`, where several heads of queries share one of values."""

    producer: str
    consumer: str
    rows: int
    repeats: int
    head: int

    def spread(self, values_T: Tensor) -> Tensor:
        """One value for each input of the consumer, from one for each of the producer's outputs."""
        heads_KD = values_T.view(-1, self.head)
        return heads_KD[:, None].expand(-1, self.repeats, -1).reshape(-1)

    def gathered(self, values_I: Tensor) -> Tensor:
        """The means of what `spread` repeats."""
        return values_I.view(-1, self.repeats, self.head).mean(1).reshape(-1)


def find_scales(
    factors: Factors, original: Path, quantised: Path, causal_lm: PreTrainedModel, *, progress: bool
) -> dict[str, Tensor]:
    """`MODULE.in`: s (in,), and `MODULE.out`: t (out,), float32, of every module that has any.

    causal_lm: the model without weights. FactorsError when the weights of `quantised` are not those of `original`
    scaled and rounded, or cannot be read.
    """
    weights = {weight.module: weight for weight in read_model(original).weights}
    dequantised = DequantisedWeights.of(quantised, causal_lm)
    theirs, ours = norms_of(original), norms_of(quantised)
    added = _added_to_weight(factors.modules, theirs, causal_lm)
    inputs = _norm_scales(
        factors.modules, *({n: norm + added for n, norm in norms.items()} for norms in (theirs, ours))
    )
    scales = {f"{module}.in": scale for module, scale in inputs.items()}
    config = causal_lm.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = list(_pairs(factors, head_dim))
    description = f"Scales of {quantised.name}, by its original"
    for pair in shown(pairs, len(pairs), description, "pairs of linears") if progress else pairs:
        passed_T = _passed_scales(
            pair, inputs.get(pair.producer), lambda module: weights[module].read(), dequantised.read
        )
        if passed_T is not None:
            unscaled = torch.ones(len(factors.triplet(pair.producer)[0]) - pair.rows)
            scales[f"{pair.producer}.out"] = torch.cat([unscaled, passed_T])
            scales[f"{pair.consumer}.in"] = 1 / pair.spread(passed_T)
    return scales


def norms_of(directory: Path) -> dict[str, Tensor]:
    """Weights and biases of the norms of the model in `directory`, float32."""
    found: dict[str, Tensor] = {}
    for path in weight_files(directory):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(("norm.weight", "norm.bias"))]  # noqa: SIM118
            found |= {name: file.get_tensor(name).float() for name in names}
    return found


def same_norms(one: Tensor, other: Tensor) -> bool:
    """Whether two norms' weights differ by rounding alone."""
    # Between float16 and bfloat16 of the same number are 0.4 %.
    return one.shape == other.shape and torch.allclose(one, other, _UNSCALED, 1e-3)


def _added_to_weight(modules: tuple[str, ...], norms: Mapping[str, Tensor], causal_lm: nn.Module) -> float:
    """What the norms add to their weights before they multiply by them: 1 in Gemma, 0 elsewhere."""
    for module in modules:
        for name in _norms_before(module.rpartition(".")[0].rpartition(".")[0], norms):
            if name is not None:
                norm = copy.deepcopy(causal_lm.get_submodule(name.removesuffix(".weight"))).to_empty(device="cpu")
                with torch.no_grad():
                    for parameter in norm.parameters():
                        parameter.zero_()
                    return float(norm(torch.linspace(-1, 1, len(norms[name]))).abs().max() > 0)
    return 0.0


def _norms_before(layer: str, norms: Norms) -> tuple[str | None, str | None]:
    """Names of the norms whose outputs attention and MLP of `layer` read; None where they read no norm's (OLMo 2)."""
    names = ("input_layernorm", "pre_feedforward_layernorm", "post_attention_layernorm")
    found = {name: f"{layer}.{name}.weight" for name in names if f"{layer}.{name}.weight" in norms}
    attention = found.get("input_layernorm")
    behind = None if attention is None else found.get("post_attention_layernorm", attention)
    return attention, found.get("pre_feedforward_layernorm", behind)


def _norm_scales(modules: tuple[str, ...], original: Norms, quantised: Norms) -> dict[str, Tensor]:
    """s of every module that reads a norm of which the weights differ, by the module's name: (in,) float32.

    The norms' weights are those by which they multiply. Empty when all are the same but for rounding. FactorsError when
    one differs that no module reads directly.
    """
    differing = [name for name in original if not same_norms(original[name], quantised[name])]
    scales: dict[str, Tensor] = {}
    read: set[str] = set()
    if not differing:
        return scales
    for module in modules:
        layer, kind = module.rpartition(".")[0].rpartition(".")[0], module.rpartition(".")[2]
        attention, mlp = _norms_before(layer, original)
        read |= {norm for norm in (attention, mlp) if norm is not None}
        norm = attention if kind in _FROM_ATTENTION_NORM else mlp if kind in _FROM_MLP_NORM else None
        if norm is not None:
            # Where the norm gives zero, no scale matters.
            scales[module] = torch.where(quantised[norm] == 0, 1.0, original[norm] / quantised[norm])
    if elsewhere := [name for name in differing if name not in read]:
        raise FactorsError(f"they differ in {elsewhere[0]}, which no linear reads directly")
    return scales


def _pairs(factors: Factors, head_dim: int) -> Iterator[Pair]:
    """The linears of `factors` that follow each other without anything between that would keep scales from passing."""
    shapes = {module: factors.weight_shape(module) for module in factors.modules}
    for consumer, (_, width) in shapes.items():
        parent, _, kind = consumer.rpartition(".")
        names = {"o_proj": ("v_proj", "qkv_proj"), "down_proj": ("up_proj", "gate_up_proj")}.get(kind, ())
        producer = next((f"{parent}.{name}" for name in names if f"{parent}.{name}" in shapes), None)
        if producer is None:
            continue
        outputs = shapes[producer][0]
        if kind == "down_proj":
            yield Pair(producer, consumer, width, 1, width)
            continue
        rows = (outputs - width) // 2 if producer.endswith("qkv_proj") else outputs
        if rows % head_dim or width % rows:
            raise FactorsError(f"{producer} gives {rows} values, which are not heads of {head_dim} for {consumer}")
        yield Pair(producer, consumer, rows, width // rows, head_dim)


def _passed_scales(pair: Pair, inputs: Tensor | None, original: Reader, quantised: Reader) -> Tensor | None:
    """t of the producer's last rows, float32 (rows,); None where they were not scaled. inputs: s of the producer.

    FactorsError when the quantised weights are not the original's, scaled and rounded.
    """
    made_OI, read_OI = quantised(pair.producer)[-pair.rows :], quantised(pair.consumer)
    expected_OI = original(pair.producer)[-pair.rows :]
    if inputs is not None:
        expected_OI *= inputs
    rows_T = _log_ratios(pair.producer, expected_OI, made_OI, dim=1)
    columns_T = pair.gathered(_log_ratios(pair.consumer, original(pair.consumer), read_OI, dim=0))
    _check_same(rows_T, -columns_T, f"the columns of {pair.consumer} and the rows of {pair.producer}")
    logs_T = (rows_T - columns_T) / 2
    rest_I = _log_ratios(pair.producer, expected_OI * logs_T.exp()[:, None], made_OI, dim=0)
    _check_same(rest_I, torch.zeros(()), f"the norm before {pair.producer} and its columns")
    return None if float(logs_T.abs().median()) < _UNSCALED else logs_T.exp()


def _check_same(one_X: Tensor, other_X: Tensor, what: str) -> None:
    mismatch = float((one_X - other_X).abs().quantile(0.95))
    if mismatch > _MOST_MISMATCH:
        raise FactorsError(f"{what} are scaled by ratios that are {math.expm1(mismatch):.0%} apart")


def _log_ratios(module: str, original_OI: Tensor, quantised_OI: Tensor, dim: int) -> Tensor:
    """Of each row (dim 1) or column (dim 0), by least squares; 0 where one is empty."""
    if original_OI.shape != quantised_OI.shape:
        shapes = f"{tuple(quantised_OI.shape)}, and the original's {tuple(original_OI.shape)}"
        raise FactorsError(f"{module} has the shape {shapes}")
    product, own = (original_OI * quantised_OI).sum(dim), original_OI.square().sum(dim)
    whole = quantised_OI.square().sum(dim).double().sum()
    ratios = torch.where(own > 0, product / own, 1.0)
    rest = float(1 - (ratios.double() * product).sum() / whole) if whole > 0 else 0.0
    if not rest <= _MOST_REST**2:
        raise FactorsError(
            f"{math.sqrt(rest):.0%} of {module} is nothing that scales and rounding make of the original's (4 bits "
            "leave some 10 %)"
        )
    return torch.where(ratios > 0, ratios, 1.0).log()
