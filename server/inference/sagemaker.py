"""Amazon SageMaker names an adapter in a header of `POST /invocations`.

vLLM's handler of that route replaces the body's `model` by the header's value, or removes it when there is no header.
So the gateway takes the header for the request's `adapter`, and sends the engine a header that repeats `model`.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from server.core.errors import BadRequest, quoted
from server.core.request_state import RawHeaders

SAGEMAKER_PATH = "/invocations"
ADAPTER_HEADER = "x-amzn-sagemaker-adapter-identifier"


def take_adapter_of_header(payload: dict[str, object], scope: Scope) -> None:
    """Put the adapter that the header names, if it does, into `payload`. BadRequest when both name one."""
    named = Headers(scope=scope).get(ADAPTER_HEADER)
    if not named:
        return
    field = payload.get("adapter")
    if field is not None and field != named:
        raise BadRequest(
            f"The header {ADAPTER_HEADER} names {quoted(named)} and the field adapter is {quoted(field)}; send one of "
            "them.",
            param="adapter",
            code="adapter_conflict",
        )
    payload["adapter"] = named


def say_model_in_header(headers: RawHeaders, payload: Mapping[str, object]) -> RawHeaders:
    """`headers` with SageMaker's repeating the `model` of `payload`; without it when there is no model."""
    said = MutableHeaders(raw=[*headers])
    del said[ADAPTER_HEADER]
    model = payload.get("model")
    if isinstance(model, str) and model.isascii():
        said[ADAPTER_HEADER] = model
    return said.raw
