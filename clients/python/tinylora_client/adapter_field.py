"""What a request says about its adapter: a name, a vector, or a mixture, from Python to the JSON field `adapter`.

"acme/math", "acme/math@3", "acme/math@prod", "~globex/math"     a name, version, alias, or another tenant's
client.adapters.get("acme/math")                                 an adapter that the server answered
Vector([0.2] * 13)                                               numbers that were never uploaded
{"polite": 0.7, "brief": 0.3}                                    a mixture, by name
[("polite", 0.7), (Vector(...), 0.3)]                            a mixture of anything
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from typing_extensions import TypedDict

from tinylora_client.objects import Adapter
from tinylora_client.vectors import Vector

OneAdapter: TypeAlias = str | Adapter | Vector
AdapterLike: TypeAlias = OneAdapter | Mapping[str, float] | Sequence[tuple[OneAdapter, float]]


def adapter_field(adapter: AdapterLike) -> Any:
    """The JSON of `adapter`, for `extra_body={"adapter": ...}` where a method has no argument for it.

    Raises TypeError for what is none of the forms above, ValueError for a vector that is not finite.
    """
    if isinstance(adapter, str | Adapter | Vector):
        return _one(adapter)
    pairs = list(adapter.items()) if isinstance(adapter, Mapping) else adapter
    if not isinstance(pairs, Sequence) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise TypeError(
            f"the adapter is {adapter!r:.80}, expected a name, an Adapter, a Vector, {{name: weight}} or a list of "
            "(adapter, weight)"
        )
    return [{"adapter": _one(part), "weight": weight} for part, weight in pairs]


class AdapterOptions(TypedDict, total=False):
    """What `create` takes besides the body that OpenAI's API knows."""

    adapter: AdapterLike | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, object] | None
    extra_body: Mapping[str, object] | None
    timeout: float | None


def with_adapter(extra_body: Any, adapter: AdapterLike | None) -> Any:
    """`extra_body` with the field `adapter`; as it is where `adapter` is None."""
    return extra_body if adapter is None else {**(extra_body or {}), "adapter": adapter_field(adapter)}


def _one(adapter: object) -> str | dict[str, Any]:
    if isinstance(adapter, Vector):
        return adapter.to_wire()
    if isinstance(adapter, Adapter):
        return adapter.id
    if not isinstance(adapter, str):
        raise TypeError(f"the mixture has {adapter!r:.80}, expected a name, an Adapter or a Vector")
    return adapter
