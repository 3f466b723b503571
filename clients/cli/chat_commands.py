"""What can be said to a conversation besides questions: /adapter, /strength and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from clients.cli.answers import BASE
from clients.cli.calls import say
from clients.cli.conversation import Conversation

HELP = """\
/adapter NAME [NAME]   who answers; two are shown side by side; `base` is the base model
/strength NUMBER       of the adapters: 1 is as trained, 0.5 half, 0 the base model
/system [TEXT]         a system message; without text none
/temperature NUMBER    0 is greedy
/max-tokens NUMBER     of an answer
/seed [NUMBER]         of the sampling; without a number another each time
/reset                 begin again
/quit                  end (Ctrl-D)"""


class End(Exception):
    """The conversation is over."""


def obey(conversation: Conversation, line: str) -> None:
    """Carry out a command and say what is so now, or what was wrong. Raises End, and openai's errors."""
    name, _, text = line.removeprefix("/").partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        say(f"! there is no command /{name}\n{HELP}")
        return
    try:
        say(command(conversation, text.strip()))
    except ValueError:
        say(f"! /{name} takes a number, such as /{name} 1")


def _adapter(conversation: Conversation, text: str) -> str:
    if text:
        conversation.choose(text.split(), _strength_of(conversation))
    return f"{', '.join(voice.title for voice in conversation.voices)} will answer"


def _strength(conversation: Conversation, text: str) -> str:
    if all(voice.adapter == BASE for voice in conversation.voices):
        return "! the base model answers, which has no strength; choose an adapter first: /adapter NAME"
    strength = float(text)
    for voice in conversation.voices:
        voice.strength = strength
    return _adapter(conversation, "")


def _strength_of(conversation: Conversation) -> float:
    return next((voice.strength for voice in conversation.voices if voice.adapter != BASE), 1.0)


def _system(conversation: Conversation, text: str) -> str:
    conversation.system = text or None
    return "the system message is set" if text else "there is no system message"


def _option(name: str, kind: type[int] | type[float]) -> Callable[[Conversation, str], str]:
    def set_it(conversation: Conversation, text: str) -> str:
        if text:
            conversation.options[name] = kind(text)
        else:
            conversation.options.pop(name, None)
        return f"{name} is {conversation.options.get(name, 'the default')}"

    return set_it


def _reset(conversation: Conversation, _text: str) -> str:
    conversation.forget()
    return "what was said is forgotten"


def _help(_conversation: Conversation, _text: str) -> str:
    return HELP


def _quit(_conversation: Conversation, _text: str) -> str:
    raise End


COMMANDS: Mapping[str, Callable[[Conversation, str], str]] = MappingProxyType(
    {
        "adapter": _adapter,
        "strength": _strength,
        "system": _system,
        "temperature": _option("temperature", float),
        "max-tokens": _option("max_tokens", int),
        "seed": _option("seed", int),
        "reset": _reset,
        "help": _help,
        "quit": _quit,
        "exit": _quit,
    }
)
