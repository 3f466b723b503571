"""Fields by which a client names its end user or its conversation: `user`, `safety_identifier`, `prompt_cache_key`.

The first of them that a request has decides which version of a weighted alias it gets: always the same one. Beside that
they change nothing, and are neither stored nor logged. Above all no prompt cache is shared by them: prefixes are shared
within a tenant, whatever the key (gateway_fields.py), and never with another that sends the same one.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted

USER_FIELDS = ("user", "safety_identifier", "prompt_cache_key")
MAX_CHARS = 512


def check_end_user(payload: Mapping[str, object]) -> None:
    """BadRequest for one that is no short string."""
    for field in USER_FIELDS:
        value = payload.get(field)
        if value is not None and not (isinstance(value, str) and len(value) <= MAX_CHARS):
            raise BadRequest(
                f"{field} is {quoted(value)}, expected a string of at most {MAX_CHARS} characters",
                param=field,
                code="invalid_value",
            )


def end_user_of(payload: Mapping[str, object]) -> str | None:
    """Whom the request names."""
    named = (payload.get(field) for field in USER_FIELDS)
    return next((user for user in named if isinstance(user, str) and user), None)
