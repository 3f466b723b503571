"""Whose turn it is on a card."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.gpu_turns import Turns


def test_whoever_comes_first_in_the_order_goes_first_of_those_that_wait() -> None:
    turns = Turns(["one", "two", "three", "late"])
    had: list[str] = []
    alone = threading.Lock()

    def take(name: str, start_s: float = 0.0) -> None:
        time.sleep(start_s)
        with turns.turn(name):
            assert alone.acquire(blocking=False)
            had.append(name)
            time.sleep(0.05)
            alone.release()

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(take, name) for name in ("three", "two", "one")]
        time.sleep(0.2)
        assert had == [], "nobody before the beginning"
        turns.begin()
        waiting.append(pool.submit(take, "late", 0.01))
        for one in waiting:
            one.result(timeout=10)
    assert had == ["one", "two", "three", "late"]
