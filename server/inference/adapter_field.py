"""The `adapter` field of an inference request, and adapters named by `model`: from JSON to a ServedAdapter.

    "adapter": "acme/math" | "acme/math@3" | "acme/math@prod" | "~globex/math"
    "adapter": {"vector": ..., "recipe": {...}, "dtype": ..., "factors": ...}
    "adapter": {"adapter": <either of the above>, "weight": 0.5}
    "adapter": [{"adapter": <either of the above>, "weight": 0.5}, ...]

A weight is a dial: 0 is the base model to the last bit, 1 the adapter as it is, more goes beyond it, and less than 0
away from it. One adapter with a weight is a mixture of one.

Every form becomes one immutable adapter with a name that identifies its content, so the engine need not know the form.

Of an alias with several weighted versions a user always gets the same one (end_user.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from adapters.vector.adapter import Adapter
from adapters.vector.mixing import mix
from server.core.errors import ApiError, BadRequest, NotFound, quoted, short
from server.core.names import INLINE_LABEL, MIX_LABEL, Reference, parse_reference
from server.core.off_loop import off_loop
from server.core.principal import DEFAULT_TENANT_NAME, Principal
from server.engine.protocol import Engine, ServedAdapter
from server.inference.end_user import end_user_of
from server.inference.engine_forms import EngineForms
from server.observability.metrics import GatewayMetrics
from server.registry.alias_targets import sticky_pick
from server.registry.spec import SPEC_FIELDS, check_servable, errors_under, number, parse_spec
from server.registry.store import Registry

FORMS = (
    "expected a name ('acme/math', 'acme/math@3' or 'acme/math@prod'), an object {'vector': ..., 'recipe': ...}, an "
    "object {'adapter': ..., 'weight': ...}, or a list of those"
)
MAX_WEIGHT = 100.0
WEIGHTED_FIELDS = {"adapter", "weight"}
DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who asks: the tenant, and its user if the request names one. `draw` is a random number in [0, 1)."""

    principal: Principal
    user: str | None
    draw: float

    def pick(self, reference: Reference) -> float:
        """A number in [0, 1) that picks one of the versions of a weighted alias: the same one for the same user."""
        if self.user is None:
            return self.draw
        owner = reference.tenant or self.principal.tenant.name
        return sticky_pick(owner, reference.name, reference.alias or "", self.user)

    def label(self, reference: Reference) -> str:
        """The adapter's name in metrics, which all tenants share."""
        owner = reference.tenant or self.principal.tenant.name
        return reference.name if owner == DEFAULT_TENANT_NAME else f"~{owner}/{reference.name}"


class AdapterField:
    """Resolves what a request says about its adapter."""

    def __init__(
        self, registry: Registry, engine: Engine, metrics: GatewayMetrics, forms: EngineForms, *, max_mixed: int
    ) -> None:
        self._registry = registry
        self._forms = forms
        self._engine = engine
        self._metrics = metrics
        self._max_mixed = max_mixed

    async def resolve(self, payload: Mapping[str, object], principal: Principal) -> ServedAdapter | None:
        """The adapter that `payload` of `principal` asks for by `adapter` or by `model`; None for the base model.

        Raises BadRequest for a malformed field, or when `adapter` and `model` name different adapters; NotFound with
        the code adapter_not_found or model_not_found.
        """
        model, field = payload.get("model"), payload.get("adapter")
        if field is not None and not isinstance(model, str | None):
            raise BadRequest(f"model is {quoted(model)}, expected a string", param="model", code="invalid_value")
        asker = _Asker(principal, end_user_of(payload), random.random())
        # Without the field, a model that is no string is the engine's to refuse.
        by_model = await self._by_model(model, asker) if isinstance(model, str) and model else None
        if field is None:
            return by_model
        served = await self._parse(field, "adapter", asker)
        if by_model is not None and by_model.name != served.name:
            raise BadRequest(
                f"model names the adapter {by_model.name} and adapter is {served.name}; send one of them, or the base "
                f"model {quoted(self._engine.base_models[0])} as model",
                param="adapter",
                code="adapter_conflict",
            )
        return served

    async def prepare(
        self, served: ServedAdapter, payload: Mapping[str, object], principal: Principal
    ) -> ServedAdapter:
        """`served`, which `resolve` gave for `payload`, with its engine form: projections may have to be drawn first.

        Raises BadRequest, TooManyRequests and Unavailable as EngineForms.of.
        """
        path = "model" if payload.get("adapter") is None else "adapter"
        return replace(served, form=await self._forms.of(served.adapter, principal, path))

    async def _by_model(self, model: str, asker: _Asker) -> ServedAdapter | None:
        if model in self._engine.base_models:
            return None
        try:
            return await self._registered(parse_reference(model, "model"), "model", asker)
        except (BadRequest, NotFound) as error:
            # A stored adapter that this server cannot run does exist; in any other case there is no such model.
            if error.code == "factors_mismatch":
                raise
            raise model_not_found(model, self._engine.base_models) from error

    async def _parse(self, field: object, path: str, asker: _Asker) -> ServedAdapter:
        if isinstance(field, list):
            if not 1 <= len(field) <= self._max_mixed:
                raise BadRequest(
                    f"{path} lists {len(field)} adapters, expected 1 to {self._max_mixed}",
                    param=path,
                    code="invalid_adapter",
                )
            items = [(f"{path}[{index}]", item) for index, item in enumerate(field)]
            return await self._mixed(items, path, asker)
        if isinstance(field, Mapping) and "adapter" in field:
            return await self._mixed([(path, field)], path, asker)
        return await self._single(field, path, asker)

    async def _single(self, field: object, path: str, asker: _Asker) -> ServedAdapter:
        if isinstance(field, str):
            return await self._registered(parse_reference(field, path), path, asker)
        if isinstance(field, Mapping):
            return await off_loop(_length(field), self._inline, field, path)
        raise BadRequest(f"{path} is {quoted(field)}; {FORMS}", param=path, code="invalid_adapter")

    async def _registered(self, reference: Reference, path: str, asker: _Asker) -> ServedAdapter:
        try:
            entry, cached = await self._registry.look_up(
                asker.principal.tenant.id, reference, pick=asker.pick(reference), param=path
            )
        except NotFound:
            self._metrics.observe_resolve("database", "not_found")
            raise
        stored = entry.stored
        with self._counted("cache" if cached else "database"):
            try:
                check_servable(stored.adapter, self._engine.factors)
            except BadRequest as error:
                raise BadRequest(
                    f"{stored.id} cannot be served here: {error.message}", param=path, code=error.code
                ) from error
        return ServedAdapter(stored.id, stored.adapter, asker.label(reference))

    def _inline(self, field: Mapping[str, object], path: str) -> ServedAdapter:
        with self._counted("inline"):
            for key in field:
                if key not in SPEC_FIELDS:
                    raise BadRequest(
                        f"{path} has the unknown field {quoted(key)}; known are {', '.join(SPEC_FIELDS)}",
                        param=f"{path}.{short(key)}",
                        code="unknown_parameter",
                    )
            adapter = parse_spec(field, self._engine.factors, path)
        return ServedAdapter(f"inline:{adapter.digest[:DIGEST_CHARS]}", adapter, INLINE_LABEL)

    async def _mixed(self, items: Sequence[tuple[str, object]], path: str, asker: _Asker) -> ServedAdapter:
        """The mixture of `items`, each with where it is in the request."""
        with self._counted("mix"):
            adapter = await self._mix(items, path, asker)
        return ServedAdapter(f"mix:{adapter.digest[:DIGEST_CHARS]}", adapter, MIX_LABEL)

    @contextmanager
    def _counted(self, source: str) -> Iterator[None]:
        """Counts the block as one look-up from `source`: invalid when it ends in one of our errors, else ok."""
        try:
            yield
        except ApiError:
            self._metrics.observe_resolve(source, "invalid")
            raise
        self._metrics.observe_resolve(source, "ok")

    async def _mix(self, items: Sequence[tuple[str, object]], path: str, asker: _Asker) -> Adapter:
        parts: list[tuple[Adapter, float]] = []
        for where, item in items:
            if not isinstance(item, Mapping) or item.keys() != WEIGHTED_FIELDS:
                raise BadRequest(
                    f"{where} is {quoted(item)}, expected an object with the fields adapter and weight",
                    param=where,
                    code="invalid_adapter",
                )
            weight = _weight(item["weight"], f"{where}.weight")
            part = await self._single(item["adapter"], f"{where}.adapter", asker)
            parts.append((part.adapter, weight))
        with errors_under(path):
            return await off_loop(sum(len(part.data) for part, _ in parts), mix, parts)


def _weight(value: object, where: str) -> float:
    weight = number(value, where, where, "invalid_weight")
    if abs(weight) > MAX_WEIGHT:
        raise BadRequest(
            f"{where} is {weight:g}, expected a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
            param=where,
            code="invalid_weight",
        )
    return weight


def _length(field: Mapping[str, object]) -> int:
    """About how many bytes an inline adapter has: its base64, or 16 for a number."""
    vector = field.get("vector")
    if isinstance(vector, str):
        return len(vector)
    rows = vector if isinstance(vector, list) else []
    return 16 * sum(len(row) if isinstance(row, list) else 1 for row in rows)


def model_not_found(model: str, base_models: Sequence[str]) -> NotFound:
    """OpenAI's answer to a model that does not exist."""
    return NotFound(
        f"The model {quoted(model)} does not exist: it is neither the base model ({', '.join(base_models)}) nor an "
        "adapter (GET /v1/adapters lists them).",
        param="model",
        code="model_not_found",
    )
