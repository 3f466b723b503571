"""The recipe: everything besides the factors that turns a vector into matrices, and which modules share which numbers.

A recipe is a small validated value, and the group of a module is a pure function of the recipe and the module's
position in depth, so nothing about tying is ever stored.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from adapters.vector.errors import RecipeError

DType = Literal["bfloat16", "float16", "float32"]
Tying = Literal["tiled", "structured"]
Projection = Literal["sha256", "peft", "elementary"]
Convention = Literal["paper", "sqrt"]

MAX_U = 4096
_BOUNDS = {"rank": (1, 64), "u": (1, MAX_U), "groups": (1, 65536), "seed": (0, 2**63 - 1)}
_CHOICES: dict[str, tuple[str, ...]] = {
    "tying": get_args(Tying),
    "projection": get_args(Projection),
    "convention": get_args(Convention),
}
# Numbers in the random projections of one module, u matrices of rank * rank. The serving process draws and keeps them
# for any client, so this bounds what one recipe can cost it (37 MB for the 560 modules of a 70B model).
MAX_PROJECTION_SIZE = 2**14


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a vector v (groups, u) becomes one matrix R (rank, rank) per module: `R_m = sum_i v[g(m), i] P[m, i]`.

    The default is 13 groups of one number: 26 bytes in bfloat16.

    tying: which modules share a group (arXiv 2602.04118, section 6.5). `tiled`: neighbours in depth, whatever their
        type. `structured`: neighbours in depth of the same type.
    projection: where P comes from. `sha256`: this project's own. `peft`: PEFT's rule, also for tying. `elementary`: P_i
        is the i-th unit matrix in row-major order and u = rank * rank, so that v is R itself (LoRA-XS).
    convention: `paper`, `W' = W + U S R V^T`; `sqrt`, `W' = W + U S^1/2 R S^1/2 V^T` (PEFT).

    Raises RecipeError, naming the field, when a value is not of its type, out of bounds, or does not fit the others.
    """

    rank: int = 2
    u: int = 1
    groups: int = 13
    tying: Tying = "tiled"
    seed: int = 0
    projection: Projection = "sha256"
    convention: Convention = "paper"

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            number = getattr(self, name)
            if type(number) is not int or not low <= number <= high:
                raise RecipeError(f"{name} must be an integer from {low} to {high}, got {number!r:.80}", field=name)
        for name, choices in _CHOICES.items():
            choice = getattr(self, name)
            if not isinstance(choice, str) or choice not in choices:
                raise RecipeError(f"{name} must be one of {', '.join(choices)}, got {choice!r:.80}", field=name)
        if self.projection == "elementary" and self.u != self.rank**2:
            raise RecipeError(
                f"u must be rank * rank = {self.rank**2} with the elementary projection, got {self.u}", field="u"
            )
        if self.projection != "elementary" and self.u * self.rank**2 > MAX_PROJECTION_SIZE:
            raise RecipeError(
                f"u * rank * rank must be at most {MAX_PROJECTION_SIZE} with a random projection, got "
                f"{self.u} * {self.rank} * {self.rank}; lower u or rank",
                field="u",
            )
        if self.projection == "peft" and self.tying != "tiled":
            raise RecipeError("tying must be tiled with the peft projection, which knows no other", field="tying")

    @property
    def num_parameters(self) -> int:
        """Numbers in the vector: groups * u."""
        return self.groups * self.u

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as JSON values."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with these fields and defaults for the rest. Raises RecipeError, also for an unknown field."""
        if not isinstance(values, Mapping):
            raise RecipeError(f"a recipe must be an object, got {type(values).__name__}", field="recipe")
        for name in values:
            if name not in _FIELDS:
                raise RecipeError(f"unknown recipe field {name!r:.80}; known are {', '.join(_FIELDS)}", field="recipe")
        return cls(**values)

    def canonical_json(self) -> str:
        """The same string for equal recipes: all fields, sorted, without spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))


_FIELDS = tuple(field.name for field in fields(Recipe))


def group_of(recipe: Recipe, modules: Sequence[str]) -> tuple[int, ...]:
    """The group, 0 to groups - 1, of every module; `modules` are Hugging Face names in depth order.

    A run of n modules is cut into g groups of ceil(n / g), the last one shorter: the paper's 13 groups of 196 modules
    are twelve of 16 and one of 4. Where that would leave groups empty, sizes differ by at most one instead, larger ones
    first. PEFT cuts into groups of n // g and gives the last one what remains. `structured` cuts each type of module by
    itself; the groups are dealt out evenly to the types, in order of first appearance, and numbered type by type.

    Raises RecipeError when some group would have no module.
    """
    if recipe.groups > len(modules):
        raise RecipeError(
            f"groups must be at most the number of modules, {len(modules)}, got {recipe.groups}", field="groups"
        )
    if recipe.tying == "structured":
        return _structured(recipe.groups, [module.rpartition(".")[2] for module in modules])
    if recipe.projection == "peft":
        size = len(modules) // recipe.groups
        return tuple(min(index // size, recipe.groups - 1) for index in range(len(modules)))
    return _cut(len(modules), recipe.groups)


def _cut(count: int, groups: int) -> tuple[int, ...]:
    size = -(-count // groups)
    if -(-count // size) == groups:
        return tuple(index // size for index in range(count))
    small, larger = divmod(count, groups)
    sizes = [small + (group < larger) for group in range(groups)]
    return tuple(group for group, size in enumerate(sizes) for _ in range(size))


def _structured(groups: int, types: Sequence[str]) -> tuple[int, ...]:
    distinct = list(dict.fromkeys(types))
    if groups < len(distinct):
        raise RecipeError(
            f"groups must be at least {len(distinct)} with structured tying, one for each type of module "
            f"({', '.join(distinct)}), got {groups}",
            field="groups",
        )
    share, more = divmod(groups, len(distinct))
    first = 0
    result = [0] * len(types)
    for position, kind in enumerate(distinct):
        members = [index for index, name in enumerate(types) if name == kind]
        count = share + (position < more)
        if count > len(members):
            raise RecipeError(
                f"groups must leave every group a module: {groups} gives {count} groups to the {len(members)} modules "
                f"of type {kind}; lower groups",
                field="groups",
            )
        for index, group in zip(members, _cut(len(members), count), strict=True):
            result[index] = first + group
        first += count
    return tuple(result)
