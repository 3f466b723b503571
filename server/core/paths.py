"""The paths that several rooms need: the engine's routes, probes, and the operator's.

Requests to MODEL_ROUTES run the model: they are queued, counted and salted. REFUSED_ROUTES are not served. Tests
compare both lists with all routes and request models that the engine has.
"""

from __future__ import annotations

ADAPTERS_PREFIX = "/v1/adapters"

# Routes that the model and its adapters have no part in.
RESPONSES_PATH = "/v1/responses"
OWN_PREFIXES = (
    ADAPTERS_PREFIX, "/v1/tenants", "/v1/files", "/v1/fine_tuning", "/v1/worker", "/v1/batches", "/v1/uploads",
    "/v1/webhook_endpoints",
    f"{RESPONSES_PATH}/resp_",  # those that are stored
)  # fmt: skip

OPERATIONS = frozenset({"/health", "/ready", "/metrics"})

# To be read (GET, HEAD) by anyone: probes come without keys, and so does who wants to know how to send one.
OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
METRICS_PATH = "/metrics"
MODELS_PATH = "/v1/models"
OPERATOR_PATHS = ("/v1/tenants", "/v1/keys")

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
    RESPONSES_PATH,
    "/v1/messages",
    "/v1/systemone",
    "/generative_scoring",
    "/inference/v1/generate",
    "/invocations",
    "/cohere/v2/chat",
}
# Here `query`, `documents`, `items` and the like are pairs to be compared, each a prompt; the documents of a chat are
# text within its prompt. /invocations is any of them.
PAIR_ROUTES = POOLING_ROUTES | {"/generative_scoring", "/invocations"}
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
# Of OpenAI's API, what the engine does not have, at places where ids of responses are.
ABSENT_ROUTES = {
    f"{RESPONSES_PATH}/input_tokens": "POST /v1/messages/count_tokens and POST /tokenize count the tokens of messages",
    f"{RESPONSES_PATH}/compact": "ask the model for a summary, and send that as the beginning of the next `input`",
}


def is_below(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether `path` is one of `prefixes`, or a path below one."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)
