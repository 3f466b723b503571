"""`tinylora chat`: a conversation with the base model and with adapters, two of them side by side.

What is heavy is imported when the command runs, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.calls import DEFAULT_URL, AsJson, Url, fail, say

if TYPE_CHECKING:
    from clients.cli.conversation import Conversation


def chat(
    message: Annotated[str | None, typer.Argument(help="Ask this and end; default: a conversation")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", "-a", help="Who answers, `base` for the base model; several are shown side by side"),
    ] = None,
    strength: Annotated[float, typer.Option("--strength", "-s", help="Of the adapters: 1 is as trained, 0 none")] = 1.0,
    system: Annotated[str | None, typer.Option(help="A system message")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", "-t", min=0, help="0 is greedy")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer")] = 512,
    seed: Annotated[int | None, typer.Option(help="Of the sampling")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the base model")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Chat with the model, with and without adapters. /help in the conversation lists what can be changed there."""
    from clients.cli.client import sentences
    from clients.cli.conversation import Conversation

    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    with sentences(url), Conversation(url, model) as conversation:
        conversation.options = {name: value for name, value in options.items() if value is not None}
        conversation.system = system
        conversation.choose(adapter or ["base"], strength)
        # What is piped in is one question.
        question = message if message is not None or sys.stdin.isatty() else sys.stdin.read().strip()
        if question is not None:
            _once(conversation, question, as_json)
        elif as_json:
            fail("--json answers one question: give it as an argument, or on standard input")
        else:
            _converse(conversation)


def _once(conversation: Conversation, question: str, as_json: bool) -> None:
    if not question.strip():
        fail("there is no question: give one as an argument, or on standard input")
    if not as_json:
        conversation.ask(question, sys.stdout.isatty())
        return
    answers = conversation.ask_silently(question)
    found = [
        {"adapter": voice.adapter, "strength": voice.strength, **{name: getattr(one, name) for name in one.__slots__}}
        for voice, one in zip(conversation.voices, answers, strict=True)
    ]
    print(json.dumps({"model": conversation.model, "answers": found}))


def _converse(conversation: Conversation) -> None:
    import openai

    from clients.cli.chat_commands import End, obey
    from clients.cli.client import words_of

    _enable_line_editing()
    say(f"{conversation.model}: {', '.join(voice.title for voice in conversation.voices)}. /help lists the commands.")
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        try:
            if line.startswith("/"):
                obey(conversation, line)
            elif line:
                conversation.ask(line, True)
        except End:
            return
        except KeyboardInterrupt:
            say("(interrupted)")
        except openai.APIStatusError as error:
            say(f"! {words_of(error)}")
        except openai.APIError as error:
            say(f"! {error}")


def _enable_line_editing() -> None:
    """Arrow keys and a history for `input`, where Python has them."""
    from contextlib import suppress

    with suppress(ImportError):
        import readline  # noqa: F401, being imported is all it takes
