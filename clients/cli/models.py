"""`tinylora models`: what a running server answers with."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, pages, table, when


def models(
    base: Annotated[bool, typer.Option("--base", help="Only the base model")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the base model and the adapters that may be given as `model`."""
    found = [model for model in pages(url, "/models") if not base or model["parent"] is None]
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        (
            *(model["id"], "base model" if model["parent"] is None else "adapter"),
            # A name without a version stands for the latest.
            model["root"] if model["root"] != model["id"] else "",
            *(str(model["max_model_len"] or ""), when(model["created"])),
        )
        for model in found
    ]
    table("id", "kind", "version", "context", "created", rows=rows, right=("context",))
