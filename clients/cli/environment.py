"""What all commands ask the server with, and what can be wrong with it: address, key, tenant, proxies, certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

KEYS = ("TINYLORA_ADMIN_KEY", "TINYLORA_API_KEY")
PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = "SSL_CERT_FILE"
# The tenant for whom an admin key acts; None: its own.
acting_for: ContextVar[str | None] = ContextVar("acting_for", default=None)


class EnvironmentVariableError(ValueError):
    """What a variable of the environment has cannot be used."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}; {advice}")
        self.found, self.advice = found, advice


class AddressError(ValueError):
    """The server's address cannot be sent, or has a host by no name that hosts can have."""


def check_address(url: str) -> None:
    """Raise AddressError of what the HTTP clients would raise errors of that say nothing of the address."""
    try:
        url.encode()
        (urlsplit(url).hostname or "").encode("idna")
    except ValueError as error:
        raise AddressError(str(error)) from error


def key_of_environment() -> str | None:
    """The key to send; None when there is none. Raises EnvironmentVariableError, which does not show the key."""
    for name in KEYS:
        key = os.environ.get(name, "").strip()
        if key and not (key.isascii() and key.isprintable()):
            found = f"{name} has characters that no key has, such as typographic quotes or a line break within it"
            raise EnvironmentVariableError(found, "copy the key again")
        if key:
            return key
    return None


@contextmanager
def making_client(invalid_url: type[Exception]) -> Iterator[None]:
    """Within, an HTTP client is made, and nothing else, with proxies and certificates of the environment.

    invalid_url: what its library raises of an address, of proxies too. Raises EnvironmentVariableError of those.
    """
    try:
        yield
    except OSError as error:
        if not os.environ.get(CERTIFICATES):
            raise
        found = f"the certificates of {CERTIFICATES} cannot be read: {error.strerror or error}"
        raise EnvironmentVariableError(found, "set another, or unset it") from error
    except (ImportError, ValueError, invalid_url) as error:
        named = [name for name in os.environ if name.upper() in PROXIES and os.environ[name]]
        if not named:
            raise
        found = f"{' or '.join(named)} cannot be used: {str(error).rstrip('.')}"
        raise EnvironmentVariableError(
            found, "set another, or unset it, or go without proxies by NO_PROXY='*'"
        ) from error
