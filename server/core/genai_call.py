"""What a request asks of the model, as OpenTelemetry's conventions for generative AI name it.

Only parameters, never prompts or answers. Values of a wrong type are left out: they are the engine's to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_TEXT_CHARS = 256
MAX_STOPS = 16
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/invocations": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
# Fields of OpenAI's and Anthropic's APIs, by what they are called there; of several the first that is given.
NUMBERS: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_tokens"),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "seed": ("seed",),
}


@dataclass(frozen=True, slots=True)
class GenAiCall:
    """`operation` is None for a route that the conventions have no name for. `numbers` are by names as in NUMBERS."""

    operation: str | None
    request_model: str
    response_model: str
    stream: bool = False
    choices: int = 1
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    as_json: bool = False
    tier: str | None = None  # that it is served with, where it names one


def genai_call(
    path: str, payload: Mapping[str, object], response_model: str, base_model: str, tier: str | None
) -> GenAiCall:
    """Of a request with the JSON body `payload`, as its client sent it."""
    model = payload.get("model")
    choices = payload.get("n")
    return GenAiCall(
        OPERATIONS.get(path),
        model[:MAX_TEXT_CHARS] if isinstance(model, str) and model else base_model,
        response_model,
        payload.get("stream") is True,
        choices if _is_number(choices) and isinstance(choices, int) else 1,
        {name: value for name, fields in NUMBERS.items() if (value := _first(payload, fields)) is not None},
        _stops(payload.get("stop")),
        _asks_for_json(payload),
        tier,
    )


def _first(payload: Mapping[str, object], fields: tuple[str, ...]) -> int | float | None:
    values = (payload.get(name) for name in fields)
    return next((value for value in values if isinstance(value, int | float) and _is_number(value)), None)


def _is_number(value: object) -> bool:
    # OpenTelemetry's integers have 64 bits.
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 2**63


def _stops(stop: object) -> tuple[str, ...]:
    stops = stop if isinstance(stop, list) else [stop]
    return tuple(text[:MAX_TEXT_CHARS] for text in stops[:MAX_STOPS] if isinstance(text, str))


def _asks_for_json(payload: Mapping[str, object]) -> bool:
    wanted = payload.get("response_format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")
