"""Watching a job until it has ended: a live curve on a terminal, else a line for each of its events, on standard error.

Design decision: interrupting it leaves the job alone and says how to go on. Whoever presses Ctrl-C wants the terminal
back, and may have trained for hours.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

from clients.cli.calls import fail, printable, say
from clients.cli.curves import Curves

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tinylora_client import Job, TinyLoRA

POLL_S = 2.0
SHOWN_MESSAGES = 4
INTERRUPTED = 130


def watch(client: TinyLoRA, job_id: str) -> Job:
    """The job, when it has succeeded. Ends the command with the reason when it did not, and at Ctrl-C."""
    from rich.console import Console

    from tinylora_client import JobFailedError, JobPausedError

    console = Console(stderr=True, highlight=False)
    view = _View(job_id)
    screen = _live(view, console) if console.is_terminal else nullcontext()
    try:
        with screen as live:

            def show(update: Any) -> None:
                view.take(update)
                if live is None:
                    for event in update.events:
                        say(f"{'! ' if event.level != 'info' else ''}{event.message}")
                else:
                    live.update(view.render(console), refresh=True)

            def show_silence(error: Exception) -> None:
                words = f"no answer of the server, asking again: {error}"
                if live is not None:
                    live.update(view.render(console, words), refresh=True)
                elif not view.silent:
                    say(words)
                view.silent = True

            done: Job = client.fine_tuning.jobs.wait(
                job_id, poll_s=POLL_S, progress=False, on_update=show, on_silence=show_silence
            )
    except JobFailedError as error:
        fail(str(error))
    except JobPausedError as error:
        fail(f"{error}. tinylora jobs resume {job_id} lets it go on.")
    except KeyboardInterrupt:
        say(f"The job goes on. tinylora jobs watch {job_id} shows it again, tinylora jobs cancel {job_id} ends it.")
        raise typer.Exit(INTERRUPTED) from None
    return done


def _live(view: _View, console: Console) -> AbstractContextManager[Any]:
    from rich.live import Live

    return Live(view.render(console), console=console, auto_refresh=False)


class _View:
    """What is known of the job, and how it is shown."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.silent = False
        self._job: Job | None = None
        self._curves = Curves()
        self._messages: deque[tuple[str, str]] = deque(maxlen=SHOWN_MESSAGES)

    def take(self, update: Any) -> None:
        self._job, self.silent = update.job, False
        for event in update.events:
            self._curves.add(event.data)
            # Of a step the curve says it.
            if event.type != "metrics":
                self._messages.append((event.level, event.message))

    def render(self, console: Console, problem: str = "") -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        job = self._job
        if job is None:
            return Text(f"{self._job_id}  {problem}")
        step, total = job.step or 0, job.total_steps
        words = [self._job_id, job.status, f"step {step}" + (f" of {total}" if total else "")]
        words += [f"{name} {value:.3f}" for name, value in self._curves.latest().items()]
        if job.estimated_finish is not None:
            words.append(f"{_duration(job.estimated_finish - time.time())} left")
        parts: list[RenderableType] = [Text("  ".join(words), style="bold")]
        if total:
            parts.append(ProgressBar(total=total, completed=step, width=min(console.width, 60)))
        # Room is left for the lines above and below, so that the screen does not scroll.
        height = min(16, console.height - SHOWN_MESSAGES - 4)
        drawn = self._curves.draw(min(console.width, 100), height, total, colours=not console.no_color)
        parts.append(Text.from_ansi(drawn))
        styles = {"warn": "yellow", "error": "red"}
        parts += [
            Text(printable(text), style=styles.get(level, "dim"), overflow="ellipsis", no_wrap=True)
            for level, text in self._messages
        ]
        if problem:
            parts.append(Text(problem, style="bold yellow"))
        return Group(*parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes}:{rest:02}"
