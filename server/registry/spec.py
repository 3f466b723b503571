"""An adapter written out in JSON: {"vector": base64 or numbers, "recipe": {...}, "dtype": "bfloat16", "factors": ...}.

Uploads and adapters within a request are read by the same code, so that both accept the same. An error names the field
as the caller wrote it ("adapter.recipe.rank").
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch

from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.codec import parse_dtype
from adapters.vector.errors import AdapterError, FactorsError
from adapters.vector.recipe import DType, Recipe, group_of
from server.core.errors import BadRequest, adapter_error_code, quoted

DEFAULT_DTYPE: DType = "bfloat16"
SPEC_FIELDS = ("vector", "recipe", "dtype", "factors")


@contextmanager
def errors_under(path: str) -> Iterator[None]:
    """Turns an AdapterError of the block into a BadRequest whose param is its field below `path`."""
    try:
        yield
    except AdapterError as error:
        param = join(path, error.field) if error.field != path.rpartition(".")[2] else path
        raise BadRequest(error.message, param=param or None, code=adapter_error_code(error)) from error


def join(path: str, field: str | None) -> str:
    """`field` of the object at `path`; "" is the body itself."""
    return ".".join(part for part in (path, field) if part)


def parse_spec(spec: Mapping[str, object], factors: Factors, path: str = "") -> Adapter:
    """The adapter that `spec` writes out, for `factors`. Keys other than SPEC_FIELDS are the caller's to refuse.

    Raises BadRequest, with a param that begins with `path`.
    """
    recipe = parse_recipe(spec.get("recipe"), factors, join(path, "recipe"))
    name = _string(spec.get("dtype", DEFAULT_DTYPE), join(path, "dtype"))
    digest = _string(spec.get("factors", factors.digest), join(path, "factors"))
    vector, where = spec.get("vector"), join(path, "vector")
    with errors_under(path):
        dtype = parse_dtype(name)
        if vector is None:
            raise BadRequest(
                f"{where} is missing, expected base64 or a list of numbers",
                param=where,
                code="missing_required_parameter",
            )
        # Before the vector is read, because these bound how long it can be.
        check_recipe(recipe, factors, join(path, "recipe"))
        if isinstance(vector, str):
            adapter = Adapter(recipe, digest, dtype, _base64(vector, where))
        elif isinstance(vector, list):
            adapter = Adapter.from_vector(_numbers(vector, recipe, where), recipe, digest, dtype)
        else:
            raise _bad_vector(f"{where} is {quoted(vector)}, expected base64 or a list of numbers", where)
    check_factors(adapter, factors, join(path, "factors"))
    return adapter


def parse_recipe(value: object, factors: Factors, path: str, default: Recipe | None = None) -> Recipe:
    """The recipe with the fields that `value` gives, and those of `default` (None: `default_recipe`) for the rest."""
    default = default or default_recipe(factors)
    if value is None:
        return default
    if not isinstance(value, Mapping):
        raise BadRequest(f"{path} is {quoted(value)}, expected an object", param=path, code="invalid_recipe")
    with errors_under(path):
        return Recipe.from_dict({**default.to_dict(), **value})


def check_servable(adapter: Adapter, factors: Factors, path: str = "") -> None:
    """BadRequest when the engine with `factors` cannot run `adapter`."""
    check_factors(adapter, factors, join(path, "factors"))
    check_recipe(adapter.recipe, factors, join(path, "recipe"))


def check_factors(adapter: Adapter, factors: Factors, path: str) -> None:
    """BadRequest when `adapter` was made for another base model."""
    if adapter.factors != factors.digest:
        raise BadRequest(
            f"the adapter was made for the factors {adapter.factors}, this server has {factors.digest} "
            f"({factors.base_model}); import or train it for this base model",
            param=path,
            code="factors_mismatch",
        )


def check_recipe(recipe: Recipe, factors: Factors, path: str) -> None:
    """BadRequest when `recipe` does not fit the modules or the rank of `factors`."""
    with errors_under(path):
        _check_recipe(recipe, factors)


@lru_cache(maxsize=1024)
def _check_recipe(recipe: Recipe, factors: Factors) -> None:
    if recipe.rank > factors.rank:
        raise FactorsError(
            f"rank must be at most {factors.rank}, the rank of this server's factors, got {recipe.rank}", field="rank"
        )
    group_of(recipe, factors.modules)


def _base64(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_vector(f"{path} is not base64: {error}", path) from error


def _numbers(values: Sequence[object], recipe: Recipe, path: str) -> torch.Tensor:
    """float64 (groups, u) from a flat list, or from a list of groups."""
    groups, u = recipe.groups, recipe.u
    flat: list[object] = []
    if any(isinstance(row, list) for row in values):
        for index, row in enumerate(values):
            if not isinstance(row, list) or len(row) != u or len(values) != groups:
                raise _bad_vector(
                    f"{path} nests {len(values)} groups, of which number {index} is {quoted(row)}; expected {groups} "
                    f"groups of {u} numbers, or {groups * u} numbers in one list",
                    path,
                )
            flat.extend(row)
    else:
        flat.extend(values)
    if len(flat) != groups * u:
        raise _bad_vector(f"{path} has {len(flat)} numbers, expected {groups} groups x {u} = {groups * u}", path)
    numbers = [number(value, f"{path}[{index}]", path, "invalid_vector") for index, value in enumerate(flat)]
    return torch.tensor(numbers, dtype=torch.float64).reshape(groups, u)


def number(value: object, where: str, param: str, code: str) -> float:
    """`value` as a finite float, else BadRequest about `where`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{where} is {quoted(value)}, expected a number", param=param, code=code)
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise BadRequest(f"{where} is not finite, expected a finite number", param=param, code=code)
    return converted


def _string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{path} is {quoted(value)}, expected a string", param=path, code="invalid_value")
    return value


def _bad_vector(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, code="invalid_vector")


def name_of(fields: Mapping[str, object]) -> str:
    """The field `name`, unchecked but for being a string."""
    name = fields.get("name")
    if name is None:
        raise BadRequest(
            "name is missing, expected a name such as 'acme/math'", param="name", code="missing_required_parameter"
        )
    if not isinstance(name, str):
        raise BadRequest(f"name is {quoted(name)}, expected a string", param="name", code="invalid_name")
    return name
