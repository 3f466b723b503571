"""Fields by which vLLM's servers hand what a request has computed to each other: refused, for this server shares with
none.

The engine believes them without such a peer, too. It would answer the tokens that they hold in the place of the
messages, report as cached how many of them they say, and take an image that it has read, maybe another tenant's, for
the one whose hash they name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from server.core.errors import BadRequest, quoted

TRANSFER = ("kv_transfer_params", "ec_transfer_params", "features")


def check_transfer(payload: Mapping[str, object]) -> None:
    """BadRequest when `payload`, the body of a request that runs the model, has such a field that is not null."""
    for where, fields in _places(payload):
        name = next((name for name in TRANSFER if fields.get(name) is not None), None)
        if name is not None:
            raise BadRequest(
                f"{quoted(where + name)} is between servers that share the work on one request, which this one does "
                "not: leave it out.",
                param=where + name,
                code="unknown_parameter",
            )


def _places(payload: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects of the body in which the engine looks for them, each with how its fields are named."""
    yield "", payload
    parameters = payload.get("sampling_params")
    of_parameters = parameters.get("extra_args") if isinstance(parameters, Mapping) else None
    for where, fields in (("vllm_xargs.", payload.get("vllm_xargs")), ("sampling_params.extra_args.", of_parameters)):
        if isinstance(fields, Mapping):
            yield where, fields
