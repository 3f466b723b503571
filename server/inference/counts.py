"""How many fields, messages and stop texts a request that runs the model may have: more than real ones do.

Each of them costs time within the event loop, here or in the engine, in which every other request waits. What else a
body may hold is bounded by its values (core/json_values.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH
from server.inference.misnomers import NESTED

# The engine's largest request model has about 70.
MAX_FIELDS = 256
# The engine reads one in a twentieth of a millisecond.
MAX_MESSAGES = 10_000
# The engine looks for each of them at every token. OpenAI takes 4.
MAX_STOPS = 256


def check_counts(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for too many fields, in the body or in an object of parameters, or a list that is too long."""
    for name, fields in ((None, payload), *((name, payload.get(name)) for name in NESTED)):
        if isinstance(fields, Mapping) and len(fields) > MAX_FIELDS:
            raise BadRequest(
                f"{name or 'The body'} has {len(fields)} fields, expected at most {MAX_FIELDS}.",
                param=name,
                code="too_many_fields",
            )
    parameters = payload.get("sampling_params")
    conversation = "input" if path == RESPONSES_PATH else "messages"
    for name, items, most in (
        (conversation, payload.get(conversation), MAX_MESSAGES),
        ("stop", payload.get("stop"), MAX_STOPS),
        ("stop_sequences", payload.get("stop_sequences"), MAX_STOPS),
        ("sampling_params.stop", parameters.get("stop") if isinstance(parameters, Mapping) else None, MAX_STOPS),
    ):
        if isinstance(items, list) and len(items) > most:
            raise BadRequest(
                f"{name} is {quoted(items)}, expected a list of at most {most}.", param=name, code="list_too_long"
            )
