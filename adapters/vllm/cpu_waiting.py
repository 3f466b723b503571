"""Lets processes of an engine on a CPU sleep while they wait for each other.

vLLM's scheduler and its worker are two processes that hand over every step through shared memory. Whoever waits asks
again and again for a second before it sleeps, which answers some microseconds sooner and takes a core. On a GPU that
core has nothing else to do; on a CPU it is one of those that compute the model, or the training worker beside it.

This has nothing to do with TinyLoRA, and is not used on a GPU.
"""

from __future__ import annotations

from typing import Any


def sleep_while_waiting(condition: Any) -> None:
    """Wrap `__init__` of vLLM's SpinCondition, so that it sleeps at once. Calling it again does nothing."""
    original = condition.__init__
    if getattr(original, "is_tinylora_seam", False):
        return

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.busy_loop_s = 0

    __init__.is_tinylora_seam = True  # type: ignore[attr-defined]
    condition.__init__ = __init__
