"""What waiting for a message costs, with vLLM's own queue."""

from __future__ import annotations

import threading
import time

import pytest

shm_broadcast = pytest.importorskip("vllm.distributed.device_communicators.shm_broadcast")

from adapters.vllm.plugin import register  # noqa: E402


def test_a_process_that_waits_for_the_other_takes_no_core() -> None:
    """Processor time, which other work on the machine does not lengthen; vLLM alone takes all of it."""
    register()
    writer = shm_broadcast.MessageQueue(n_reader=1, n_local_reader=1)
    reader = shm_broadcast.MessageQueue.create_from_handle(writer.export_handle(), 0)
    ready = threading.Thread(target=writer.wait_until_ready)
    ready.start()
    reader.wait_until_ready()
    ready.join()
    writer.enqueue("first")
    assert reader.dequeue(timeout=10) == "first"

    later = threading.Timer(0.8, writer.enqueue, ["second"])
    later.start()
    began = time.thread_time()
    assert reader.dequeue(timeout=10) == "second"
    took = time.thread_time() - began
    later.join()
    assert took < 0.2, (
        f"waiting 0.8 s for a message took {took:.2f} s of processor time: vLLM waits in another way now, and "
        "adapters/vllm/cpu_waiting.py has no effect; look at SpinCondition in vLLM's shm_broadcast"
    )
