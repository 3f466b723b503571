"""Amazon SageMaker's way to name an adapter: a header of `POST /invocations`.

vLLM's handler of that route replaces the body's `model` by what the header says, and by nothing when there is no such
header. So the gateway reads the header as the request's `adapter`, and hands on a header that says what `model` says.
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
    """`headers`, with the adapter's set to the `model` of `payload`, or gone: what vLLM's handler leaves as it is."""
    said = MutableHeaders(raw=[*headers])
    del said[ADAPTER_HEADER]
    model = payload.get("model")
    if isinstance(model, str) and model.isascii():
        said[ADAPTER_HEADER] = model
    return said.raw
