"""What tests of the start have in common."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def terminal() -> Iterator[None]:
    """As at a terminal: SIGHUP, which nohup has this process and its children ignore, ends them."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
