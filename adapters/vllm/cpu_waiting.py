"""Gives other work the core on which a process of an engine on a CPU waits.

vLLM's scheduler and its workers are processes that hand over every step through shared memory (`MessageQueue`). Whoever
waits looks again without a pause, which on two cores takes up to half of what the model or a training worker could use.
Here it looks 9,000 times a second, which delays a step by about 0.1 ms.

Design decision: a short sleep, not vLLM's idle mode from the start (`busy_loop_s = 0`), which waits for a notification:
engines of several processes were seen to stall in it, at one token a second.

This has nothing to do with TinyLoRA, and is not used on a GPU, where a core has nothing else to do.
"""

from __future__ import annotations

import time
from typing import Any

# Linux adds its timer slack of 50 µs.
PAUSE_S = 50e-6


def pause_while_waiting(condition: Any) -> None:
    """Wrap `wait` of vLLM's SpinCondition, so that it pauses before it looks again. Calling it again does nothing.

    A second after the last message vLLM's idle mode takes over, as ever.
    """
    original = condition.wait
    if getattr(original, "is_tinylora_seam", False):
        return

    def wait(self: Any, timeout_ms: int | None = None) -> None:
        if time.monotonic() <= self.last_read + self.busy_loop_s:
            time.sleep(PAUSE_S)
        else:
            original(self, timeout_ms)

    wait.is_tinylora_seam = True  # type: ignore[attr-defined]
    condition.wait = wait
