"""A file that can be read once and not counted before, as what a shell pipes into a command."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def piped(path: Path, content: bytes) -> Iterator[Path]:
    """A named pipe at `path`, into which `content` is written once."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    yield path
    writer.join()
