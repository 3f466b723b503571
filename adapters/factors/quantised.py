"""Serving a quantised checkpoint with the factors of the weights that it was made from.

Quantised weights have no factors of their own: their singular vectors would be others, and an adapter trained for the
original would not be one for them. What is added to a layer's output does not read its weights, so the original's
factors serve the quantised model, and their digest names the same adapters.

Some methods (AWQ, SmoothQuant) also scale what linears read and give. Those scales are found by comparison with the
original (channel_scales.py), which takes a pass over the weights, and are then kept beside the model. Others
(SpinQuant) rotate it; such a checkpoint is refused.
"""

import contextlib
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, PreTrainedModel

from adapters.factors.build import Device, find_or_build_factors
from adapters.factors.channel_scales import find_scales, norms_of, same_norms
from adapters.factors.dequantised import READABLE, DequantisedWeights, UnreadableWeights, quantisation
from adapters.factors.factors import Factors, Kind, open_factors
from adapters.factors.kept_scales import has_scales, kept_scales, save_scales
from adapters.factors.model_directory import locate_model
from adapters.factors.transformers_model import auto_class
from adapters.vector.errors import AdapterError, FactorsError

# Of the leading singular vectors, relative, in the middle one of a layer's linears. Rounding to 4 bits changes those of
# SmolLM2 by 0.06 (0.02 to 0.17), and scales from 1/2 to 2 by 0.45 (0.38 to 0.69).
_MOST_OF_ROUNDING = 0.2


def served_factors(
    model: str | Path,
    original: str | Path | None,
    *,
    rank: int = 2,
    kind: Kind = "svd",
    progress: bool = True,
    device: Device = "cpu",
) -> Factors:
    """The factors to serve or train `model` with: its own, or those of `original`.

    original: the model that a quantised `model` was made from, or a file of factors, whose rank and kind then hold.
    device: computes them, where they are not there yet.

    Raises FactorsError when the factors do not fit the shapes of `model`, or its weights are not those of the original
    scaled and rounded; without `original` as `find_or_build_factors`.
    """
    if not original:
        return find_or_build_factors(model, rank=rank, kind=kind, progress=progress, device=device)
    directory = locate_model(model)
    if is_factors_file(original):
        factors = open_factors(Path(original).expanduser())
        causal_lm = _without_weights(directory)
        _check_shapes(factors, directory, causal_lm)
        return replace(factors, scales=_scales_without_original(factors, directory, causal_lm))
    try:
        factors = find_or_build_factors(original, rank=rank, kind=kind, progress=progress, device=device)
    except FactorsError as error:
        raise FactorsError(f"no factors from {original} (--factors-from): {error}", field=error.field) from error
    causal_lm = _without_weights(directory)
    _check_shapes(factors, directory, causal_lm)
    return replace(factors, scales=_scales(factors, locate_model(original), directory, causal_lm, progress))


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


def _without_weights(directory: Path) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            model: PreTrainedModel = auto_class(config).from_config(config)
            return model
    except (OSError, ValueError, KeyError, AdapterError) as error:
        raise FactorsError(f"{directory} is not a causal language model that transformers knows: {error}") from error


def _check_shapes(factors: Factors, directory: Path, causal_lm: PreTrainedModel) -> None:
    for module in factors.modules:
        try:
            shape = tuple(causal_lm.get_parameter(f"{module}.weight").shape)
        except AttributeError:
            shape = None
        expected = factors.weight_shape(module)
        if shape != expected:
            found = f"has no module {module}" if shape is None else f"has {module} of shape {shape}"
            raise FactorsError(
                f"{directory} {found}, the factors of {factors.base_model} say {expected}: they are of another model; "
                "name the one that it was quantised from, --factors-from ORIGINAL"
            )


def _scales(
    factors: Factors, original: Path, quantised: Path, causal_lm: PreTrainedModel, progress: bool
) -> Path | None:
    """The file of scales of `quantised`, kept before or found by comparing it with `original`; None without any."""
    theirs, ours = norms_of(original), norms_of(quantised)
    if ours.keys() != theirs.keys():
        raise FactorsError(
            f"{quantised} has {len(ours)} norms and {original} {len(theirs)}: they are not the same model; name the "
            "one that it was quantised from, --factors-from ORIGINAL"
        )
    differing = next((name for name in sorted(ours) if not same_norms(ours[name], theirs[name])), None)
    if differing is not None and not is_quantised(quantised):
        raise FactorsError(
            f"{quantised} is not quantised, and other than {original} in {differing}; leave --factors-from out, which "
            "names the model that a quantised one was made from"
        )
    if differing is None and quantisation(quantised).get("quant_method") not in READABLE:
        return None  # the other methods round, and do nothing else
    path = kept_scales(quantised, factors)
    if path is None:
        try:
            scales = find_scales(factors, original, quantised, causal_lm, progress=progress)
        except FactorsError as error:
            if differing is None and isinstance(error, UnreadableWeights):
                # As of other methods: nearly all that scale or rotate change norms.
                return None
            raise FactorsError(
                f"the weights of {quantised} are not known to be those of {original} scaled and rounded: {error}. If "
                "it was made from another model, name that one; else serve one that is not rotated (as by SpinQuant "
                f"and QuaRot) and, if it is scaled (as by AWQ and SmoothQuant), of {' or '.join(READABLE)}; or the "
                "original"
            ) from error
        path = save_scales(quantised, factors, scales)
    return path if has_scales(path) else None


def _scales_without_original(factors: Factors, quantised: Path, causal_lm: PreTrainedModel) -> Path | None:
    """The file of scales that were found when the original was named. FactorsError where it is missing."""
    method = quantisation(quantised).get("quant_method")
    if method not in READABLE:
        return None
    path = kept_scales(quantised, factors)
    if path is not None:
        return path if has_scales(path) else None
    scaled = method == "awq"
    if factors.kind == "svd":
        with contextlib.suppress(UnreadableWeights):
            scaled = _changed_beyond_rounding(factors, DequantisedWeights.of(quantised, causal_lm))
    if scaled:
        raise FactorsError(
            f"{quantised} ({method}) scales what its linears read, as AWQ and SmoothQuant do, or is of another model; "
            "a file of factors does not say by what it scales: name the model that it was made from, --factors-from "
            "ORIGINAL. The scales are then kept beside the checkpoint, and the file is enough"
        )
    return None


def _changed_beyond_rounding(factors: Factors, weights: DequantisedWeights) -> bool:
    """Whether the singular vectors of the first layer's weights are not the original's: W^T U = V S, W V = U S."""
    layer = factors.modules[0].rpartition(".")[0].rpartition(".")[0]
    rests = []
    for module in (module for module in factors.modules if module.startswith(f"{layer}.")):
        u_OR, s_R, v_IR = factors.triplet(module)
        weight_OI = weights.read(module)
        rest = torch.stack([(weight_OI.T @ u_OR - v_IR * s_R).norm(), (weight_OI @ v_IR - u_OR * s_R).norm()]).max()
        rests.append(float(rest / s_R.norm()))
    return statistics.median(rests) > _MOST_OF_ROUNDING
