"""The secrets with which webhooks are signed: drawn here, and stored sealed (core/seals.py).

Endpoints of earlier versions have a seed instead, from which their secret is made:
"whsec_" + base64(HMAC-SHA256(TINYLORA_WEBHOOK_KEY, endpoint id + "." + seed)). It stays their secret, and is stored as
all others as soon as the server knows for certain with which key seeds were used (`renewed`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Row

from server.core.seals import CannotOpen, Seals
from server.endpoints.endpoint_client import SECRET_PREFIX

SECRET_BYTES = 32
# What a row without one has in the place of its seed, which may not be null.
NO_SEED = ""
_SHOWN_CHARS = 4


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """seed_key: with which seeds were used, empty where there was none. is_seed_key_known: otherwise it is a guess."""

    seals: Seals
    seed_key: bytes = field(default=b"", repr=False)
    is_seed_key_known: bool = True

    def new(self) -> str:
        """What is stored of a new secret."""
        return self.seals.seal(SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())

    def secret(self, endpoint: Row[Any]) -> str:
        """The secret of an endpoint. CannotOpen."""
        return self._secret(endpoint.id, endpoint.secret, endpoint.seed)

    def old_secret(self, endpoint: Row[Any]) -> str | None:
        """The one before it, None where there is none. CannotOpen."""
        if endpoint.old_secret is None and endpoint.old_seed is None:
            return None
        return self._secret(endpoint.id, endpoint.old_secret, endpoint.old_seed)

    def hint(self, endpoint: Row[Any]) -> str:
        """What may be shown of the secret, to tell it from others."""
        try:
            return f"{SECRET_PREFIX}...{self.secret(endpoint)[-_SHOWN_CHARS:]}"
        except CannotOpen:
            return f"{SECRET_PREFIX}... (unreadable)"

    def renewed(self, endpoint: Row[Any]) -> dict[str, str | None]:
        """What columns of an endpoint have to be for its secrets to be stored as new ones are. CannotOpen."""
        columns: dict[str, str | None] = {}
        for secret, seed, no_seed in (("secret", "seed", NO_SEED), ("old_secret", "old_seed", None)):
            stored, used = getattr(endpoint, secret), getattr(endpoint, seed)
            if stored is not None and (renewed := self.seals.renewed(stored)) != stored:
                columns[secret] = renewed
            elif stored is None and used and self.is_seed_key_known:
                columns |= {secret: self.seals.seal(self._secret(endpoint.id, None, used)), seed: no_seed}
        return columns

    def _secret(self, endpoint_id: str, stored: str | None, seed: str) -> str:
        if stored is not None:
            return self.seals.open(stored)
        digest = hmac.new(self.seed_key, f"{endpoint_id}.{seed}".encode(), hashlib.sha256).digest()
        return SECRET_PREFIX + base64.b64encode(digest).decode()
