"""What the programs of this directory share: the server that they ask, and the report of what worked.

A program is a client's own code as a user writes it, a function per feature. It runs in a process of its own, with the
packages of that client, so it imports nothing of this repository but this file. `node/features.mjs` is the same for
JavaScript.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

QUESTION = "What is the capital of France?"
TOKENS = 6  # of an answer to QUESTION
CALL_TOKENS = 60  # for the longest call or document that the schemas below allow
WEATHER_QUESTION = "What is the weather in Paris?"
WEATHER_RESULT = "sunny, 21 degrees"
CITY_QUESTION = "Is Paris a capital, and of which country? Answer as JSON."


class Weather(BaseModel):
    """Get the weather of a city."""

    city: str = Field(max_length=12)
    unit: Literal["celsius", "fahrenheit"]


class City(BaseModel):
    """A city."""

    country: Literal["France", "Spain"]
    capital: bool


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of one of the models above without further properties, as strict tools and schemas have it."""
    return {**schema, "additionalProperties": False}


@dataclass(frozen=True)
class World:
    """The server, the names of its model and of an adapter, and their greedy answers to QUESTION in TOKENS tokens."""

    url: str
    key: str
    model: str
    adapter: str
    base_answer: str
    adapted_answer: str


Feature = Callable[[World], None] | str


def run(features: Mapping[str, Feature]) -> None:
    """Try the features that the command line names (all without) and print {feature: outcome} as the last line.

    A feature is a function, which raises when it does not work, or the sentence that says why the client has none. An
    outcome is {"works": true}, {"reason": sentence} or {"failed": what was raised}, with the seconds that it took.
    """
    world = World(**json.loads(os.environ["THIRD_PARTY_WORLD"]))
    outcomes = {name: _tried(features[name], world) for name in sys.argv[1:] or features}
    print(json.dumps(outcomes))


def _tried(feature: Feature, world: World) -> dict[str, object]:
    if isinstance(feature, str):
        return {"reason": feature}
    start = time.monotonic()
    try:
        feature(world)
        outcome: dict[str, object] = {"works": True}
    except Exception:
        outcome = {"failed": traceback.format_exc(limit=6)}
    return {**outcome, "seconds": round(time.monotonic() - start, 1)}


def check_weather(name: str | None, arguments: str | Mapping[str, Any]) -> None:
    """That the one tool there is was called with arguments of its schema."""
    assert name in ("get_weather", "Weather"), name
    Weather.model_validate(json.loads(arguments) if isinstance(arguments, str) else arguments)


def check_raises(error: type[Exception], status: int, words: str, call: Callable[[], object]) -> None:
    """That `call` raises the client's own `error`, of this HTTP status, with `words` in what the user reads."""
    try:
        call()
    except error as raised:
        found = getattr(raised, "status_code", None)
        assert found == status, (found, raised)
        assert words in str(raised), f"{words!r} is not in {raised}"
    else:
        raise AssertionError(f"{error.__name__} was not raised")
