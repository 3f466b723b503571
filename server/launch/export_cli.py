"""`tinylora export`: an adapter as a plain LoRA, or merged into its model, for software that knows no TinyLoRA.

Like cli.py it imports what it needs when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, say

if TYPE_CHECKING:
    from adapters.factors.factors import Factors
    from adapters.vector.adapter import Adapter

# Of the update that rounding to 16 bits loses: from here on it is said.
NOTABLE_LOSS = 0.01


def export(
    adapter: Annotated[str, typer.Argument(help="On the server, as acme/math@3, or a .safetensors file of one")],
    output: Annotated[Path, typer.Argument(help="The directory to write", file_okay=False)],
    as_what: Annotated[
        Literal["lora", "merged"], typer.Option("--as", help="A LoRA in PEFT's format, or the whole model, changed")
    ] = "lora",
    model: Annotated[str | None, typer.Option(help="The base model, not quantised; default: the embedded one")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of merged weights; default: as they are", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Write an adapter for vLLM's LoRA, PEFT, llama.cpp and others, and print where it is.

    A LoRA has megabytes in place of 26 bytes; the vector cannot be had back from it.
    """
    data = _data(adapter, url)

    from adapters.checkpoints.lora_export import export_lora
    from adapters.checkpoints.merged_export import export_merged
    from adapters.factors.model_directory import locate_model
    from adapters.factors.transformers_model import names_there
    from adapters.vector.adapter import Adapter
    from adapters.vector.errors import AdapterError, FactorsError
    from server.launch.embedded_model import EmbeddedModelError, ensure_embedded_model

    if dtype is not None and as_what == "lora":
        fail("--dtype is for merged weights (--as merged); a LoRA is written in float32")
    try:
        name = model or str(ensure_embedded_model(progress=say))
        parsed = Adapter.from_safetensors(data)
        factors = _factors(parsed, name)
        found: dict[str, str | float] = {"adapter": adapter, "as": as_what, "directory": str(output)}
        if as_what == "lora":
            export_lora(parsed, factors, output, name, names_there(locate_model(name), factors.modules))
        else:
            merged = export_merged(parsed, factors, locate_model(name), output, dtype)
            if merged.loss > NOTABLE_LOSS:
                say(f"Rounding lost {merged.loss:.0%} of the adapter's change; --dtype float32 keeps it.")
            found["rounding_loss"] = merged.loss
    except FactorsError as error:
        hint = ""
        if error.field == "factors":
            which = "This is the embedded model: name the adapter's with --model. " if model is None else ""
            hint = f" ({which}Where the server has factors of its own, copy their file to {name}/tinylora.)"
        fail(f"{error}{hint}")
    except (AdapterError, EmbeddedModelError, OSError, ValueError) as error:
        fail(str(error))
    print(json.dumps(found) if as_json else output)


def _data(adapter: str, url: str) -> bytes:
    """The adapter as a safetensors file, of this machine or of the server."""
    if adapter.endswith(".safetensors") and Path(adapter).is_file():
        return Path(adapter).read_bytes()
    from clients.cli.client import connected

    with connected(url) as client:
        return client.adapters.download(adapter, format="safetensors")


def _factors(adapter: Adapter, model: str) -> Factors:
    """Those that the adapter was made for, if they are beside the model; else those of the default rank.

    Raises FactorsError as find_or_build_factors.
    """
    from adapters.factors.build import cache_directories, find_or_build_factors
    from adapters.factors.factors import open_factors
    from adapters.factors.model_directory import locate_model
    from adapters.factors.model_files import read_model

    files = read_model(locate_model(model))
    for directory in cache_directories(files.directory, files.fingerprint()):
        for file in sorted(directory.glob(f"factors-*-{adapter.factors}.safetensors")):
            return open_factors(file)
    return find_or_build_factors(model, rank=max(2, adapter.recipe.rank))
