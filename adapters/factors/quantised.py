"""Serving a quantised checkpoint with the factors of the weights that it was made from.

Quantised weights have no factors of their own: their singular vectors would be others, and an adapter trained for the
original would not be one for them. What is added to a layer's output does not read its weights, so the original's
factors serve the quantised model, and their digest names the same adapters.

That holds where rounding is all that was done. Some methods (AWQ, SmoothQuant) also divide the inputs of linears by
scales, which they multiply into the weights, and rotations (SpinQuant) turn them; V^T x is then another number. Such a
checkpoint has other norms than the original, and is refused.
"""

import json
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.factors.build import find_or_build_factors
from adapters.factors.factors import Factors, Kind, open_factors
from adapters.factors.model_files import locate_model, weight_files
from adapters.vector.errors import FactorsError

# Between float16 and bfloat16 of the same number are 0.4 %; scales are far from 1.
_SAME_NORM = 0.02


def served_factors(
    model: str | Path, original: str | Path | None, *, rank: int = 2, kind: Kind = "svd", progress: bool = True
) -> Factors:
    """The factors to serve or train `model` with: its own, or those of `original`.

    original: the model that a quantised `model` was made from, or a file of factors, whose rank and kind then hold.

    Raises FactorsError when the factors do not fit the shapes of `model`, or its linears see other inputs than the
    original's; without `original` as `find_or_build_factors`.
    """
    if not original:
        return find_or_build_factors(model, rank=rank, kind=kind, progress=progress)
    directory = locate_model(model)
    if is_factors_file(original):
        factors = open_factors(Path(original).expanduser())
        _check_shapes(factors, directory)
        return factors
    try:
        factors = find_or_build_factors(original, rank=rank, kind=kind, progress=progress)
    except FactorsError as error:
        raise FactorsError(f"no factors from {original} (--factors-from): {error}", field=error.field) from error
    _check_shapes(factors, directory)
    _check_inputs(locate_model(original), directory)
    return factors


def is_factors_file(original: str | Path) -> bool:
    """Whether `original` is a file of factors, and not a model."""
    return Path(original).expanduser().is_file()


def is_quantised(model: str | Path) -> bool:
    """Whether the configuration of `model`, a directory or a hub id, says that its weights are quantised.

    False where there is none: what else is read of the model will say so.
    """
    directory = Path(model).expanduser()
    try:
        config = directory / "config.json" if directory.is_dir() else hf_hub_download(str(model), "config.json")
        return bool(json.loads(Path(config).read_bytes()).get("quantization_config"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError, AttributeError):
        return False


def _check_shapes(factors: Factors, directory: Path) -> None:
    try:
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise FactorsError(f"{directory} is not a causal language model that transformers knows: {error}") from error
    for module in factors.modules:
        try:
            shape = tuple(model.get_submodule(module).weight.shape)
        except AttributeError:
            shape = None
        u_OR, _, v_IR = factors.triplet(module)
        expected = len(u_OR), len(v_IR)
        if shape != expected:
            found = f"has no module {module}" if shape is None else f"has {module} of shape {shape}"
            raise FactorsError(
                f"{directory} {found}, the factors of {factors.base_model} say {expected}: they are of another model; "
                "name the one that it was quantised from, --factors-from ORIGINAL"
            )


def _check_inputs(original: Path, quantised: Path) -> None:
    ours, theirs = _norms(quantised), _norms(original)
    if ours.keys() != theirs.keys():
        raise FactorsError(
            f"{quantised} has {len(ours)} norms and {original} {len(theirs)}: they are not the same model; name the "
            "one that it was quantised from, --factors-from ORIGINAL"
        )
    for name in sorted(ours.keys() & theirs.keys()):
        same = ours[name].shape == theirs[name].shape and torch.allclose(ours[name], theirs[name], _SAME_NORM, 1e-3)
        if not same and not is_quantised(quantised):
            raise FactorsError(
                f"{quantised} is not quantised, and other than {original} in {name}; leave --factors-from out, which "
                "names the model that a quantised one was made from"
            )
        if not same:
            raise FactorsError(
                f"{quantised} and {original} differ in {name}, which quantising alone leaves as it is: this checkpoint "
                "scales or rotates what its linears read (as AWQ, SmoothQuant and SpinQuant do), so adapters of the "
                "original would act on other numbers. Serve one that was only rounded (FP8, GPTQ, compressed-tensors "
                "without SmoothQuant), or the original; and if it was made from another model, name that one"
            )


def _norms(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in weight_files(directory):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float() for name in file.keys() if name.endswith("norm.weight")}  # noqa: SIM118
    return found
