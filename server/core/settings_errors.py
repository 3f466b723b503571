"""What is wrong with the settings, in sentences for the operator that name the variables and show no secret."""

from __future__ import annotations

from pydantic import ValidationError

from server.core.error_responses import plain_message
from server.core.settings_urls import without_password

SECRETS = ("admin_key", "worker_key", "judge_api_key", "redis_url", "secrets_key", "webhook_key")


def explain(error: ValidationError) -> str:
    """What is wrong with the environment, for the operator; it does not show keys."""
    sentences: dict[str, str] = {}
    for wrong in error.errors():
        name, message = str(wrong["loc"][0]), plain_message(wrong)
        if wrong["input"] == "":
            sentences[name] = f"TINYLORA_{name.upper()} is empty: give it a value, or leave it unset"
            continue
        value = "" if name in SECRETS else f"is {without_password(str(wrong['input']))!r}: "
        # A setting that may be one thing or another has a message for each.
        said = sentences.get(name)
        sentences[name] = f"TINYLORA_{name.upper()} {value}{message}" if said is None else f"{said}, or: {message}"
    return "; ".join(sentences.values())
