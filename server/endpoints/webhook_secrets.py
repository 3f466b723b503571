"""The secrets with which webhooks are signed: made anew from a key of the operator whenever they are needed.

    secret = "whsec_" + base64(HMAC-SHA256(TINYLORA_WEBHOOK_KEY, endpoint id + "." + seed))

The database has the seed alone, so with a key set, whoever reads a dump of it learns no secret. Without a key it does.
All gateways need the same key; another key makes other secrets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from server.endpoints.endpoint_client import SECRET_PREFIX

_SHOWN_CHARS = 4


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """`key` is the operator's, empty without one."""

    key: bytes = field(repr=False)

    def secret(self, endpoint_id: str, seed: str) -> str:
        """The secret of an endpoint."""
        digest = hmac.new(self.key, f"{endpoint_id}.{seed}".encode(), hashlib.sha256).digest()
        return SECRET_PREFIX + base64.b64encode(digest).decode()

    def hint(self, endpoint_id: str, seed: str) -> str:
        """What may be shown of it, to tell secrets apart."""
        return f"{SECRET_PREFIX}...{self.secret(endpoint_id, seed)[-_SHOWN_CHARS:]}"


def new_seed() -> str:
    """64 hexadecimal digits."""
    return secrets.token_hex(32)
