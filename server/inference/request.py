"""One inference request, as it goes to the engine: who asks, with which adapter, and what that is expected to cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.core.genai_call import GenAiCall
from server.core.principal import Principal
from server.core.request_state import RawHeaders, RequestUsage
from server.engine.grammar import Grammar
from server.engine.protocol import ServedAdapter
from server.inference.responses.plan import ResponsePlan
from server.inference.service_tier import Standing
from server.inference.token_estimate import Estimate


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What is settled before it runs. `headers` and `body` are those that the engine gets.

    `served` is None for the base model. `estimate` is None for a request that does not run the model (/tokenize, or a
    body that is no JSON object, which the engine refuses): it is neither charged nor queued.
    """

    principal: Principal
    path: str
    headers: RawHeaders
    body: bytes
    served: ServedAdapter | None = None
    prompt_only: bool = False  # it wants its prompt back, for the log-probabilities, and no answer
    estimate: Estimate | None = None
    standing: Standing = field(default_factory=Standing)
    call: GenAiCall | None = None  # of a request that runs the model
    background: bool = False  # a line of a batch, for which nobody waits
    grammars: tuple[Grammar, ...] = ()
    response: ResponsePlan | None = None  # what a request to /v1/responses is to become
    usage: RequestUsage = field(default_factory=RequestUsage)
