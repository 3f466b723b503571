"""Whether a key that an operator thought of may guard a server.

Refused are keys that others know or soon guess: placeholders of templates and tutorials, and short or monotonous ones.
Whether a long key is random cannot be seen from it.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, SecretStr, ValidationInfo

MIN_CHARS = 16
MIN_DIFFERENT_CHARS = 6
# Compared without case and punctuation.
_PLACEHOLDER = re.compile(
    r".*(changeme|changethis|replaceme|placeholder|example|youradmin|yourapikey|yoursecret).*"
    r"|(sk|tinylora)*(admin|root|secret|password|default|test|key|token)+[0-9]*"
)
_ONLY_FOR_DEVELOPMENT = "allowed with TINYLORA_ENVIRONMENT=development only"


def why_not_a_key(key: str) -> str | None:
    """Why `key` cannot be sent in a header, or None."""
    if not key:
        return "is empty; unset it for a server without keys"
    if not re.fullmatch(r"[!-~]+", key):
        return "has other characters than ASCII letters, digits and punctuation"
    return None


def why_weak(key: str) -> str | None:
    """Why `key` is no secret, or None."""
    if _PLACEHOLDER.fullmatch(re.sub(r"[^a-z0-9]", "", key.lower())):
        return f"is a placeholder that everyone knows, {_ONLY_FOR_DEVELOPMENT}"
    if len(key) < MIN_CHARS or len(set(key)) < MIN_DIFFERENT_CHARS:
        return f"has less than {MIN_CHARS} characters, or hardly any different ones, {_ONLY_FOR_DEVELOPMENT}"
    return None


def _checked(key: str, info: ValidationInfo) -> None:
    wrong = why_not_a_key(key)
    if wrong is None and info.data.get("environment") != "development":
        wrong = why_weak(key)
    if wrong is not None:
        raise ValueError(f"{wrong}; `openssl rand -hex 32` makes a good one")


def _checked_key(key: SecretStr, info: ValidationInfo) -> SecretStr:
    _checked(key.get_secret_value(), info)
    return key


def _checked_keys(keys: SecretStr, info: ValidationInfo) -> SecretStr:
    for key in keys.get_secret_value().split(","):
        _checked(key, info)
    return keys


# Of a class with the field `environment` before them. `Keys` are several, separated by commas.
Key = Annotated[SecretStr, AfterValidator(_checked_key)]
Keys = Annotated[SecretStr, AfterValidator(_checked_keys)]
