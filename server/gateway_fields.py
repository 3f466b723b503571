"""The engine's own fields that are the gateway's to set: `cache_salt`, `priority` and `request_id`.

    cache_salt   who may share computed prefixes: the requests of one tenant. Whatever a client sends is replaced.
    request_id   the gateway's (request_id.py). A client's is left out: it may be another's
    priority     0 (as soon as possible, the default) to 100: a client can only let its requests wait for others.

Design decision: lists of the routes that run the model. Those of MODEL_ROUTES are queued, counted and salted, those of
REFUSED_ROUTES are not served; the tests hold both against all routes and request models that the engine can have.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.errors import BadRequest, quoted

# Of MODEL_ROUTES, those that compute something from prompts and generate nothing.
POOLING_ROUTES = frozenset(
    {
        "/v1/embeddings",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
    }
)
# Their bodies are JSON objects, and their answers are computed by the model.
MODEL_ROUTES = POOLING_ROUTES | {
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/systemone",
    "/generative_scoring",
    "/inference/v1/generate",
    "/invocations",
    "/cohere/v2/chat",
}
# Why they are not served. Audio is in forms, or comes piece by piece over a WebSocket.
_NEITHER = "its requests could be neither queued nor counted; for audio run a server of vLLM's own"
REFUSED_ROUTES = {
    "/v1/audio/transcriptions": _NEITHER,
    "/v1/audio/translations": _NEITHER,
    "/v1/realtime": _NEITHER,
    "/scale_elastic_ep": "the engine has a fixed number of ranks",
    "/is_scaling_elastic_ep": "the engine has a fixed number of ranks",
    "/v2/embed": "what its requests compute could not be kept apart from other tenants'; use /v1/embeddings",
}
MAX_PRIORITY = 100


def set_gateway_fields(payload: dict[str, object], tenant_id: int) -> None:
    """Set in `payload`, the body of a request to a MODEL_ROUTE, what its tenant decides. BadRequest for `priority`."""
    priority_of(payload)
    payload["cache_salt"] = f"tenant-{tenant_id}"
    payload.pop("request_id", None)


def priority_of(payload: dict[str, object]) -> int:
    """How long the request may wait for others: 0 to 100. BadRequest for anything else."""
    priority = payload.get("priority")
    if priority is None:
        return 0
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        raise BadRequest(
            f"priority is {quoted(priority)}, expected a whole number from 0 (as soon as possible) to {MAX_PRIORITY} "
            "(after the others)",
            param="priority",
            code="invalid_value",
        )
    return priority


def asks_for_prompt_only(payload: Mapping[str, object]) -> bool:
    """Whether a request for completions wants its prompt back, for the log-probabilities, and no answer."""
    return payload.get("echo") is True and payload.get("max_tokens") == 0
