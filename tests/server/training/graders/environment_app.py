"""A tenant's environment on a real socket of this machine: a game of which the whole state is in each request.

The model is told a word, and has to say it. It is told again until it did, and gets less for every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from tests.server.training.graders.endpoint_app import EndpointApp, endpoint_app

SECRET = "whsec_" + "A" * 40


def said(message: dict[str, Any]) -> list[str]:
    """The words of a turn, whether they are a text or the arguments of a call."""
    import json

    calls = message.get("tool_calls") or ()
    return [word for call in calls for word in json.loads(call["function"]["arguments"])["words"]] or (
        message["content"] or ""
    ).split()


def word_game(asked: dict[str, Any]) -> tuple[int, Any]:
    wanted = f"w{Random(asked['seed']).randrange(10, 60)}"
    last = asked["messages"][-1]
    words = said(last)
    if wanted in words or not asked["turns_left"]:
        return 200, {"done": True, "reward": 1 / asked["turn"] if wanted in words else len(words) / 1000}
    calls = last.get("tool_calls") or ()
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": f"not {wanted}"} for call in calls]
    return 200, {"messages": answers or [{"role": "user", "content": f"say {wanted}"}]}


@contextmanager
def environment_app(play: Callable[[dict[str, Any]], tuple[int, Any]] = word_game) -> Iterator[EndpointApp]:
    with endpoint_app(play) as app:
        yield app
