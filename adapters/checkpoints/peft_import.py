"""Importing PEFT's TinyLoRA checkpoints.

A file keeps its small vector, `u * groups` numbers, when that vector with redrawn P gives the same R to float32
precision in these factors. Usually the signs of PEFT's singular vectors, which come from LAPACK, differ from ours; then
R itself is stored. Biases, embeddings and whole modules beside the adapter are refused.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

import torch
from torch import Tensor

from adapters.apply.reconstruct import matrices
from adapters.checkpoints.checkpoint_file import CONFIG_FILE, check_tensor, config_float, config_int, some
from adapters.checkpoints.factor_fit import Imported, LowRankUpdate, elementary_adapter, fit_matrices
from adapters.checkpoints.module_names import served_names
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import CheckpointError, RecipeError
from adapters.vector.projection import projection
from adapters.vector.recipe import DType, Recipe

# base_model.tinylora_v.3 and base_model.model.<module>.tinylora_A; a raw state dict also names the adapter, "default".
_VECTOR_KEY = re.compile(r"base_model\.tinylora_v\.(?:default\.)?(?P<group>0|[1-9]\d{0,5})")
_MODULE_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)\.tinylora_(?P<kind>[ABP])(?:\.default)?")
_DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16",
}  # fmt: skip
_MAX_U = 2**20
_MAX_SEED = 2**62
# Relative, per module: float32 SVDs of one weight differ by about 1e-6, bfloat16 rounding by 4e-3, a flipped sign by 1.
_SAME_MATRIX = 1e-4


def import_peft_tinylora(
    tensors: Mapping[str, Tensor], factors: Factors, *, config: Mapping[str, object] | None
) -> Imported:
    """Import PEFT's TinyLoRA state dict: A (r, in), B (out, r), optionally P (u, r, r) per module, v (u,) per group.

    `config` is adapter_config.json; without it P must be in the file. Modules of `factors` that it does not adapt get
    R = 0. PEFT's update is `B (sum_i v_i P_i) A`. Raises CheckpointError.
    """
    config = {} if config is None else config
    _check_type(config)
    vectors, parts = _sort_tensors(tensors, factors)
    adapted = _numbered(module for module in factors.modules if module in parts)
    rank = _rank(parts[adapted[0]], adapted[0], factors, config)
    vectors_GU, dtype = _stack_vectors(vectors, config)
    groups, u = vectors_GU.shape
    vectors_QU = vectors_GU[_groups(len(adapted), groups, config)]
    recipe = _recipe(rank, u, groups, config, drawn=_all_drawn(parts))

    updates = (
        (module, _update(module, parts[module], rank, vectors_QU[index], index, recipe, factors))
        for index, module in enumerate(adapted)
    )
    fit = fit_matrices(updates, factors, rank)
    if recipe is not None and adapted == factors.modules and fit.matrices.shape[1] == rank:
        compact = Adapter.from_vector(vectors_GU.float(), recipe, factors.digest, dtype)
        if _same(matrices(compact, factors)[:, :rank, :rank].double(), fit.matrices):
            return Imported(compact, 0.0)
    return Imported(elementary_adapter(fit.matrices, factors), fit.loss)


def _update(
    module: str,
    part: Mapping[str, Tensor],
    rank: int,
    vector_U: Tensor,
    index: int,
    recipe: Recipe | None,
    factors: Factors,
) -> LowRankUpdate:
    """`B (sum_i v_i P_i) A` of the module PEFT numbered `index`; P is drawn with `recipe` if not in the file."""
    left_OR, _, right_IR = factors.triplet(module)
    left = check_tensor(f"{module}.tinylora_B", _required(part, module, "B"), (left_OR.shape[0], rank))
    right = check_tensor(f"{module}.tinylora_A", _required(part, module, "A"), (rank, right_IR.shape[0]))
    if recipe is not None and "P" not in part:
        projection_UKK = projection(recipe, module, index).double()
    else:
        projection_UKK = check_tensor(f"{module}.tinylora_P", _required(part, module, "P"), (len(vector_U), rank, rank))
    return LowRankUpdate(left, torch.einsum("u,uij->ij", vector_U, projection_UKK), right)


def _check_type(config: Mapping[str, object]) -> None:
    kind = config.get("peft_type", "TINYLORA")
    if kind != "TINYLORA":
        raise CheckpointError(f"{CONFIG_FILE}: peft_type is {kind!r:.80}, expected 'TINYLORA'", field="peft_type")


def _sort_tensors(
    tensors: Mapping[str, Tensor], factors: Factors
) -> tuple[dict[int, Tensor], dict[str, dict[str, Tensor]]]:
    vectors: dict[int, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    found = {name: match for name in tensors if (match := _MODULE_KEY.fullmatch(name))}
    served = served_names((match["module"] for match in found.values()), factors.modules)
    for name, tensor in tensors.items():
        if match := _VECTOR_KEY.fullmatch(name):
            vectors[int(match["group"])] = tensor
        elif (match := found.get(name)) and (module := served.get(match["module"])):
            parts.setdefault(module, {})[match["kind"]] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"the checkpoint has tensors that cannot be served: {some(unknown)}; expected tinylora_A, tinylora_B and "
            f"tinylora_P of {some(factors.modules, 2)}, and base_model.tinylora_v"
        )
    if not parts or not vectors:
        missing = "tinylora_A and tinylora_B" if vectors else "tinylora_v"
        raise CheckpointError(f"the checkpoint has no {missing}")
    return vectors, parts


def _required(part: Mapping[str, Tensor], module: str, kind: str) -> Tensor:
    if kind not in part:
        raise CheckpointError(f"tensor '{module}.tinylora_{kind}' is missing from the checkpoint")
    return part[kind]


def _rank(part: Mapping[str, Tensor], module: str, factors: Factors, config: Mapping[str, object]) -> int:
    rank = config_int(config, "r", 1, 2**31) if config else _first_size(_required(part, module, "A"))
    if not 1 <= rank <= factors.rank:
        raise CheckpointError(
            f"the checkpoint has rank {rank}, expected 1..{factors.rank}; build factors of that rank to serve it",
            field="r",
        )
    return rank


def _first_size(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _stack_vectors(vectors: Mapping[int, Tensor], config: Mapping[str, object]) -> tuple[Tensor, DType]:
    """(v float64 (groups, u), dtype to store it in): the dtype of the file, float32 when there are several."""
    if set(vectors) != set(range(len(vectors))):
        missing = min(set(range(len(vectors) + 1)) - set(vectors))
        raise CheckpointError(f"tensor 'base_model.tinylora_v.{missing}' is missing from the checkpoint")
    u = config_int(config, "u", 1, _MAX_U) if config else _first_size(vectors[0])
    if not 1 <= u <= _MAX_U:
        raise CheckpointError(f"tensor 'base_model.tinylora_v.0' has {u} numbers, expected 1..{_MAX_U}")
    rows = [check_tensor(f"base_model.tinylora_v.{group}", vectors[group], (u,)) for group in range(len(vectors))]
    dtypes = {vector.dtype for vector in vectors.values()}
    return torch.stack(rows), _DTYPES.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32"


def _numbered(modules: Iterable[str]) -> tuple[str, ...]:
    """`modules`, in the factors' order, as PEFT numbers them, which is as the model defines them. In two places that is
    another order: the attention of Phi-3 and Phi-4 defines o_proj before qkv_proj, that of OPT q_proj after v_proj."""
    ordered: list[str] = []
    for parent, members in groupby(modules, lambda module: module.rpartition(".")[0]):
        of_parent = tuple(members)
        if f"{parent}.qkv_proj" in of_parent:
            before: tuple[str, ...] = ("o_proj",)
        elif ".decoder.layers." in parent:
            before = ("k_proj", "v_proj")
        else:
            before = ()
        first = [f"{parent}.{kind}" for kind in before if f"{parent}.{kind}" in of_parent]
        ordered += [*first, *(module for module in of_parent if module not in first)]
    return tuple(ordered)


def _groups(modules: int, groups: int, config: Mapping[str, object]) -> list[int]:
    """The group of each adapted module by PEFT's tying: runs of modules // groups, the last with the remainder."""
    if config:
        tying = config_float(config, "weight_tying", 0.0, 1.0, default=0.0)
        expected = max(1, round(modules * (1.0 - tying)))
        if groups != expected:
            raise CheckpointError(
                f"the checkpoint has {groups} vectors, expected {expected} for {modules} modules, weight_tying {tying}",
                field="weight_tying",
            )
    if groups > modules:
        raise CheckpointError(f"the checkpoint has {groups} vectors, expected at most {modules}, one a module")
    return [min(index // (modules // groups), groups - 1) for index in range(modules)]


def _all_drawn(parts: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether P has to be drawn again (PEFT's save_projection=False). CheckpointError when only some are missing."""
    missing = [module for module, part in parts.items() if "P" not in part]
    if missing and len(missing) < len(parts):
        raise CheckpointError(
            f"{len(parts) - len(missing)} of {len(parts)} modules have their tinylora_P; missing in {some(missing)}"
        )
    return bool(missing)


def _recipe(rank: int, u: int, groups: int, config: Mapping[str, object], *, drawn: bool) -> Recipe | None:
    """The recipe that draws PEFT's P; None when there is none and the file holds P. CheckpointError."""
    if drawn and not config:
        raise CheckpointError(f"the checkpoint has no tinylora_P; {CONFIG_FILE} with its projection_seed is needed")
    if drawn and str(config.get("peft_version", "")).startswith("0.19."):
        # PEFT 0.19 seeded P with Python's per-process hash of the adapter's name, so nobody can draw it again.
        raise CheckpointError(
            "PEFT 0.19 drew tinylora_P from a random hash; save the adapter with save_projection=True"
        )
    try:
        # PEFT adds a module's number to the seed; both together must stay an int64.
        seed = config_int(config, "projection_seed", 0, _MAX_SEED)
        return Recipe(rank=rank, u=u, groups=groups, seed=seed, projection="peft", convention="sqrt")
    except (CheckpointError, RecipeError) as error:
        if not drawn:
            return None
        raise CheckpointError(
            f"the checkpoint has no tinylora_P, which cannot be drawn again: {error.message}; "
            "save the adapter with save_projection=True",
            field=error.field,
        ) from error


def _same(candidate_MKK: Tensor, fitted_MKK: Tensor) -> bool:
    difference_M = torch.linalg.matrix_norm(candidate_MKK - fitted_MKK)
    size_M = torch.linalg.matrix_norm(fitted_MKK)
    return bool((difference_M <= _SAME_MATRIX * size_M).all())
