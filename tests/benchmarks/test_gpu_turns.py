"""Whose turn it is on a card."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.gpu_turns import Turns


def test_whoever_comes_first_in_the_order_goes_first_of_those_that_wait() -> None:
    order = ["one", "two", "three"]
    turns = Turns(order)
    had: list[str] = []
    alone = threading.Lock()

    def take(name: str) -> None:
        with turns.turn(name):
            assert alone.acquire(blocking=False)
            had.append(name)
            alone.release()

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(take, name) for name in reversed(order)]
        deadline = time.monotonic() + 30
        while turns._waiting != set(order) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert had == [], "nobody before the beginning"
        turns.begin()
        for one in waiting:
            one.result(timeout=30)
    assert had == order
