"""Importing LoRA-XS checkpoints: frozen A and B from the SVD of the base weight, a trained r x r matrix between them.

PEFT itself has no LoRA-XS; the files are PEFT LoRA files with one more tensor per module, whose name depends on the
PEFT release that saved it.

Design decision: A and B are read from the file, not assumed to be our factors, so the original code's split (S on A's
side) is imported like any other.
"""

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from adapters.checkpoints.checkpoint_file import CONFIG_FILE, check_tensor, config_float, config_int, some
from adapters.checkpoints.factor_fit import Imported, LowRankUpdate, elementary_adapter, fit_matrices
from adapters.checkpoints.module_names import served_names
from adapters.factors.factors import Factors
from adapters.vector.errors import CheckpointError

# The trained matrix is an attribute `default_lora_latent_mapping` of the LoRA layer. PEFT 0.10 removes ".default" from
# every key it saves, also there: `q_proj_lora_latent_mapping.weight`. Later releases keep it.
_LATENT_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.default)?_lora_latent_mapping\.weight")
_LORA_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<kind>[AB])(?:\.default)?\.weight")
# With each of these the update is another one than `scaling * B R A`.
_UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "layer_replication")


def is_lora_xs(names: Iterable[str]) -> bool:
    """Whether these are the tensor names of a LoRA-XS checkpoint."""
    return any(_LATENT_KEY.fullmatch(name) for name in names)


def import_lora_xs(tensors: Mapping[str, Tensor], factors: Factors, *, config: Mapping[str, object] | None) -> Imported:
    """Import a LoRA-XS state dict: lora_A (r, in), lora_B (out, r) and the latent mapping R (r, r) per module.

    The update is `scaling * B R A`, scaling = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora, from `config`
    (adapter_config.json), which is therefore required. Modules of `factors` that it does not adapt get R = 0. A and B
    may come from a randomized SVD, as in the original code's first release, within the limits of `fit_matrices`.
    Raises CheckpointError.
    """
    if config is None:
        raise CheckpointError("LoRA-XS needs adapter_config.json beside the tensors, for r and lora_alpha")
    rank, scaling = _rank_and_scaling(config, factors)
    parts = _sort_tensors(tensors, factors)
    updates = ((module, _update(module, part, rank, scaling, factors)) for module, part in parts.items())
    fit = fit_matrices(updates, factors, rank)
    return Imported(elementary_adapter(fit.matrices, factors), fit.loss)


def _update(module: str, part: Mapping[str, Tensor], rank: int, scaling: float, factors: Factors) -> LowRankUpdate:
    missing = [name for name in ("lora_A", "lora_B", "lora_latent_mapping") if name not in part]
    if missing:
        raise CheckpointError(
            f"tensor '{module}.{missing[0]}' is missing from the checkpoint; A, B and R are all needed, because the "
            "signs of A and B are not known without them"
        )
    left_OR, _, right_IR = factors.triplet(module)
    return LowRankUpdate(
        left=check_tensor(f"{module}.lora_B", part["lora_B"], (left_OR.shape[0], rank)),
        core=scaling * check_tensor(f"{module}.lora_latent_mapping", part["lora_latent_mapping"], (rank, rank)),
        right=check_tensor(f"{module}.lora_A", part["lora_A"], (rank, right_IR.shape[0])),
    )


def _rank_and_scaling(config: Mapping[str, object], factors: Factors) -> tuple[int, float]:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{CONFIG_FILE}: peft_type is {kind!r:.80}, expected 'LORA'", field="peft_type")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise CheckpointError(f"{CONFIG_FILE}: {key} is {config[key]!r:.80}, which cannot be served", field=key)
    rank = config_int(config, "r", 1, 2**31)
    if rank > factors.rank:
        raise CheckpointError(
            f"the checkpoint has rank {rank}, expected 1..{factors.rank}; serve the model with factors "
            "of that rank or more (the server's setting factors_rank)",
            field="r",
        )
    alpha = config_float(config, "lora_alpha", 0.0, 1e6)
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") is True else alpha / rank


def _sort_tensors(tensors: Mapping[str, Tensor], factors: Factors) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    found = {name: match for name in tensors if (match := _LORA_KEY.fullmatch(name) or _LATENT_KEY.fullmatch(name))}
    served = served_names((match["module"] for match in found.values()), factors.modules)
    for name, tensor in tensors.items():
        if (match := found.get(name)) and (module := served.get(match["module"])):
            kind = f"lora_{match['kind']}" if match.re is _LORA_KEY else "lora_latent_mapping"
            parts.setdefault(module, {})[kind] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"the checkpoint has tensors that cannot be served: {some(unknown)}; expected lora_A, lora_B and "
            f"lora_latent_mapping of {some(factors.modules, 2)}"
        )
    if not parts:
        raise CheckpointError("the checkpoint has no tensors; expected lora_A, lora_B and lora_latent_mapping")
    return parts
