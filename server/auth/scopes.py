"""Which scope a key needs for which path.

    infer      the engine's inference routes, batches of them, the models there are, and what is left of quotas
    adapters   adapters (also deleted as models), usage and audit, of the key's own tenant
    train      files, uploads in parts, fine-tuning jobs and graders; webhooks
    admin      tenants, keys, /metrics, and every path that is not named here

A path that is not listed needs `admin`: a route that a new version of the engine adds is closed to tenants until it is
listed here.
"""

from __future__ import annotations

from server.core.paths import MODEL_ROUTES, MODELS_PATH, is_below
from server.core.principal import KeyScope

_EXACT: dict[str, KeyScope] = {
    **dict.fromkeys(MODEL_ROUTES, "infer"),
    "/tokenize": "infer",
    "/detokenize": "infer",
    "/tokenizer_info": "infer",
    "/v1/realtime": "infer",
    "/v1/limits": "infer",
}
_BELOW: dict[str, KeyScope] = {
    MODELS_PATH: "infer",
    "/v1/chat/completions": "infer",
    "/v1/completions": "infer",
    "/v1/responses": "infer",
    "/v1/messages": "infer",
    "/v1/audio": "infer",
    "/v1/batches": "infer",
    "/v1/adapters": "adapters",
    "/v1/usage": "adapters",
    "/v1/organization/usage": "adapters",
    "/v1/audit": "adapters",
    "/v1/files": "train",
    "/v1/uploads": "train",
    "/v1/fine_tuning": "train",
    "/v1/webhook_endpoints": "train",
    "/v1/webhook_event_types": "train",
}


def scope_of(method: str, path: str) -> KeyScope:
    """The scope that requests to `path` need."""
    if method == "DELETE" and is_below(path, (MODELS_PATH,)):
        return "adapters"
    exact = _EXACT.get(path)
    if exact is not None:
        return exact
    return next((scope for prefix, scope in _BELOW.items() if is_below(path, (prefix,))), "admin")
