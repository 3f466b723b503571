"""What this server refuses of a request by its fields alone, told before the request is made: for lines of batches.

It is the code that every request meets when it comes (resolve.py, admission.py), apart from what may be otherwise by
then: stored responses that are gone on from, quotas, and prompts in tokens. Nothing is charged and nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.core.paths import RESPONSES_PATH
from server.core.principal import Principal
from server.engine.protocol import Engine
from server.inference.adapter_field import AdapterField
from server.inference.admission import Admission
from server.inference.answer_limits import lower_limits
from server.inference.counts import check_counts, check_media
from server.inference.engine_json import engine_json
from server.inference.own_fields import check_own_fields
from server.inference.refused_values import leave_out_refused
from server.inference.responses.input_items import with_whole_texts
from server.inference.responses.plan import ResponseLimits, check_storing, needs_store
from server.inference.service_tier import tier_of
from server.inference.token_estimate import estimate

# What is taken out of a body, or set in it, before the engine gets it.
_NOT_THE_ENGINES = frozenset(
    ("adapter", "service_tier", "priority", "cache_salt", "request_id", "previous_response_id", "conversation",
     "background", "store")
)  # fmt: skip


class EarlyCheck:
    """Checks bodies of requests to `engine`."""

    def __init__(self, engine: Engine, field: AdapterField, admission: Admission, limits: ResponseLimits) -> None:
        self._engine = engine
        self._field = field
        self._admission = admission
        self._limits = limits

    def check_fields(self, payload: dict[str, Any], path: str, principal: Principal) -> None:
        """BadRequest for the first field at fault of the body of a request to a model route. May take a millisecond."""
        engine = self._engine
        check_counts(payload, path)
        check_media(payload)
        check_own_fields(payload, path, engine.why_no_tools)
        tier_of(payload)
        self._admission.check_width(path, principal, estimate(payload, engine.max_model_len, path=path))
        engine_json(payload)
        if path == RESPONSES_PATH:
            check_storing(payload, self._limits)
            if not needs_store(payload):
                own = {name: value for name, value in payload.items() if name not in _NOT_THE_ENGINES}
                leave_out_refused(own)
                if isinstance(own.get("input"), list):
                    own["input"] = with_whole_texts(own["input"])
                lower_limits(own, engine.max_model_len, has_thinking_budgets=engine.has_thinking_budgets)
                engine.check_request(path, own)

    async def check_adapter(self, payload: Mapping[str, Any], principal: Principal) -> None:
        """Whether the adapter, or the model, is there. Raises as AdapterField.resolve."""
        await self._field.resolve(payload, principal)
