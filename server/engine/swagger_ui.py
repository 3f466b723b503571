"""Swagger UI's files, which vLLM carries for machines without internet (its flag --enable-offline-docs)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SCRIPT, STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
_PLACE = "entrypoints/serve/instrumentator/static"


def swagger_ui() -> dict[str, bytes]:
    """The contents of SCRIPT and STYLE. FileNotFoundError where this version of vLLM has them elsewhere."""
    vllm = find_spec("vllm")  # not imported, which takes seconds
    if vllm is None or vllm.origin is None:
        raise FileNotFoundError("vLLM is not installed, whose files of Swagger UI /docs is made of")
    return {name: (Path(vllm.origin).parent / _PLACE / name).read_bytes() for name in (SCRIPT, STYLE)}
