"""Secrets of tenants as the database has them: sealed with the operator's keys (TINYLORA_SECRETS_KEY).

    "sealed:" + a Fernet token, whose key is HKDF-SHA256 of the operator's

The first key seals, and any of them opens, so that a key can be replaced by naming the new one before the old one.
Without a key a secret is stored as it is. One that was stored so stays readable once there is a key.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from server.core.errors import Unavailable

SEALED = "sealed:"
KEY_BYTES = 32


class CannotOpen(Unavailable):
    """A secret was sealed with a key that the server does not have."""

    def __init__(self) -> None:
        super().__init__(
            "A secret cannot be read: it was sealed with a key that this server's TINYLORA_SECRETS_KEY does not name "
            "(any more). The operator can name it again behind the new one, or the secret's owner set another secret.",
            code="secret_unreadable",
        )


class Seals:
    """Seals with the first of the operator's `keys`, of any form and length; opens with all of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        ciphers = [Fernet(_fernet_key(key)) for key in keys]
        self._first = ciphers[0] if ciphers else None
        self._all = MultiFernet(ciphers) if ciphers else None

    def seal(self, secret: str) -> str:
        """What is stored of `secret`: the secret itself where there is no key."""
        if self._first is None:
            return secret
        return SEALED + self._first.encrypt(secret.encode()).decode()

    def open(self, stored: str) -> str:
        """The secret of which this is stored. CannotOpen."""
        if not stored.startswith(SEALED):
            return stored
        try:
            if self._all is not None:
                return self._all.decrypt(stored.removeprefix(SEALED)).decode()
        except InvalidToken:
            pass
        raise CannotOpen

    def renewed(self, stored: str) -> str:
        """What is to be stored of the same secret now: `stored` where the first key has sealed it. CannotOpen."""
        secret = self.open(stored)
        try:
            if self._first is not None and stored.startswith(SEALED):
                self._first.decrypt(stored.removeprefix(SEALED))
                return stored
        except InvalidToken:
            pass
        return self.seal(secret)


def _fernet_key(key: str) -> bytes:
    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"tinylora-serve: secrets in the database")
    return base64.urlsafe_b64encode(derived.derive(key.encode()))
