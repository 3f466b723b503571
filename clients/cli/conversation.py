"""A conversation: who answers, what was said to and by each of them, and how answers are shown while they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clients.cli.answers import BASE, Answer, Voice, ask
from clients.cli.client import async_client
from tinylora_client.answer_check import base_model_of

if TYPE_CHECKING:
    from typing import Self


class Conversation:
    """With the server at `url`. options: of every request. Its methods raise openai.APIError and its kin.

    An answer that Ctrl-C or an error cuts off stays in nobody's memory, like its question.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        self.options: dict[str, Any] = {}
        self.system: str | None = None
        self.voices: list[Voice] = []
        self.model = model or ""
        self._url = url
        self._end = ExitStack()

    def __enter__(self) -> Self:
        # One loop for all questions, since the client's connections belong to it.
        self._runner = self._end.enter_context(asyncio.Runner())
        self._client = async_client(self._url)
        self._end.callback(lambda: self._runner.run(self._client.close()))
        if not self.model:
            self.model = self._runner.run(self._base_model())
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def choose(self, adapters: Sequence[str], strength: float = 1.0) -> None:
        """Let these answer from now on; each that is new starts without a memory. They have to exist."""
        known = {voice.adapter: voice for voice in self.voices}
        for adapter in adapters:
            if adapter != BASE and adapter not in known:
                self._runner.run(self._exists(adapter))
        self.voices = [
            Voice(adapter, strength, known[adapter].said if adapter in known else []) for adapter in adapters
        ]

    def forget(self) -> None:
        """Begin again."""
        for voice in self.voices:
            voice.said = []

    def ask(self, question: str, live: bool) -> None:
        """Print the answers to `question`: of one voice as it comes, of several side by side, if it is to be `live`."""
        titles = [voice.title for voice in self.voices]
        if len(self.voices) == 1:

            def write(_place: int, text: str) -> None:
                sys.stdout.write(text)
                sys.stdout.flush()

            try:
                self._ask(question, write)
            finally:
                print()
        elif live:
            shown, console = [Text() for _ in self.voices], Console(highlight=False)
            try:
                # While they come, no more is shown than the screen holds.
                with Live(console=console, auto_refresh=False, transient=True) as screen:

                    def show(place: int, text: str) -> None:
                        shown[place].append(text)
                        screen.update(_side_by_side(titles, shown), refresh=True)

                    answers = self._ask(question, show)
                titles = [_timed(title, answer) for title, answer in zip(titles, answers, strict=True)]
            finally:
                console.print(_side_by_side(titles, shown))
        else:
            for title, answer in zip(titles, self.ask_silently(question), strict=True):
                print(f"== {title}\n{answer.text}")

    def ask_silently(self, question: str) -> list[Answer]:
        """The answers, whole."""
        return self._ask(question, lambda _place, _text: None)

    def _ask(self, question: str, changed: Callable[[int, str], None]) -> list[Answer]:
        asked = [Voice(voice.adapter, voice.strength, [*self._system(), *voice.said]) for voice in self.voices]
        answers = [Answer() for _ in asked]
        try:
            self._runner.run(ask(self._client, self.model, question, asked, answers, self.options, changed))
        except* Exception as errors:
            raise _first(errors) from None
        for voice, answer in zip(self.voices, answers, strict=True):
            voice.said = [
                *voice.said,
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer.text},
            ]
        return answers

    def _system(self) -> list[dict[str, str]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    async def _base_model(self) -> str:
        return base_model_of((await self._client.models.list()).data)

    async def _exists(self, adapter: str) -> None:
        # As a model, for a key may be one for answers alone.
        await self._client.models.retrieve(adapter)


def _side_by_side(titles: Sequence[str], texts: Sequence[Text]) -> Table:
    table = Table(expand=True, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(Text(title), ratio=1, overflow="fold")
    table.add_row(*texts)
    return table


def _timed(title: str, answer: Answer) -> str:
    first = "" if answer.first_token_s is None else f"first token {1000 * answer.first_token_s:.0f} ms"
    tokens = "" if answer.tokens is None else f"{answer.tokens} tokens"
    words = [word for word in (first, tokens) if word]
    return f"{title} ({', '.join(words)})" if words else title


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
