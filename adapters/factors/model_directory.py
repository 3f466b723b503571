"""The directory of a Hugging Face causal LM: where it is, its configuration and its weight files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from adapters.vector.errors import FactorsError


def locate_model(model: str | Path) -> Path:
    """The directory of `model`: itself, or the local snapshot of a hub id (safetensors and configuration only).

    Raises FactorsError when it is neither a directory nor a model of the hub.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    try:
        snapshot = huggingface_hub.snapshot_download(
            str(model),
            allow_patterns=["*.safetensors", "*.safetensors.index.json", "config.json"],
            ignore_patterns=["*/*", "consolidated*"],
        )
    except HFValidationError as error:
        raise FactorsError(
            f"{str(model)!r} is neither a directory nor a model the hub could give: ids there are OWNER/NAME",
            field="model",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FactorsError(
            f"{str(model)!r} is neither a directory nor a model the hub could give: {error}", field="model"
        ) from error
    return Path(snapshot)


def read_config(directory: Path) -> tuple[bytes, Mapping[str, Any]]:
    """config.json of the model in `directory`, as it is and parsed. FactorsError when it cannot be read, and for
    quantised weights."""
    path = directory / "config.json"
    try:
        content = path.read_bytes()
        config = json.loads(content)
    except (OSError, ValueError) as error:
        raise FactorsError(f"{path} cannot be read: {error}; give a Hugging Face model directory") from error
    if not isinstance(config, dict):
        raise FactorsError(f"{path} is not a JSON object; give a Hugging Face model directory")
    if config.get("quantization_config"):
        raise FactorsError(
            f"{directory} holds quantised weights (quantization_config in config.json); build the factors from the "
            "original weights: serve it with --factors-from ORIGINAL, the model that it was made from (a directory or "
            "hub id) or a file of that model's factors"
        )
    return content, config


def layer_count(directory: Path, config: Mapping[str, Any]) -> int:
    """How many layers the language model of `config` has. FactorsError when it does not say."""
    text_config = config.get("text_config")
    count = (text_config if isinstance(text_config, dict) else config).get("num_hidden_layers")
    if count is None:
        raise FactorsError(
            f"{directory}/config.json has no num_hidden_layers, which all models have that can be adapted: those with "
            "plain linears of attention and MLP, named as in Llama"
        )
    if type(count) is not int or count < 1:
        raise FactorsError(f"{directory}/config.json: num_hidden_layers is {count!r:.80}, expected a positive integer")
    return count


def weight_files(directory: Path) -> list[Path]:
    """The model's safetensors files. FactorsError when one is missing."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FactorsError(f"{index} is not an index of safetensors files: {error!r}; download it again") from error
        # A name with a directory in it could point anywhere.
        paths = [directory / Path(name).name for name in names]
    else:
        paths = [directory / "model.safetensors"]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FactorsError(
            f"{directory} lacks {', '.join(missing)}; factors are built from safetensors (not .bin or .gguf), so "
            "download those weights"
        )
    return paths


def name_of(directory: Path) -> str:
    """The hub id of a model in the hub's cache, else the directory's name."""
    # The hub's cache: models--organisation--name/snapshots/<commit>
    resolved = directory.resolve()
    repository = resolved.parent.parent.name
    if resolved.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return resolved.name
