"""Work on a model's modules as an operator sees it on stderr: a bar on a terminal, and a line behind it."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def shown(items: Iterable[T], count: int, description: str, unit: str = "modules") -> Iterator[T]:
    """The `count` items, one after the other."""
    console = Console(stderr=True)
    start = time.perf_counter()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=count, description=description)
    else:
        yield from items
    console.print(f"{description}: {count} {unit} in {time.perf_counter() - start:.1f} s", soft_wrap=True)
